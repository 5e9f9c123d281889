package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
)

// Stop ends an app. A held one is dropped without waking it: its connections
// are reset.
func (eng *Engine) Stop(ctx context.Context, a *App, sig unix.Signal, grace time.Duration) error {
	release, err := eng.Turn(ctx, a, "stop")
	if err != nil {
		return err
	}
	defer release()
	switch a.Status() { //nolint:exhaustive // the others are steps of an operation, and this one has the turn
	case app.Stopped:
		return nil
	case app.Held:
		return eng.stopHeld(ctx, a, "stopped while held")
	case app.Running:
	default:
		return &app.StatusError{App: a.Name(), Status: a.Status(), Done: "stopped"}
	}
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err = a.proc.Stop(patience, sig, a.ended)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("stop %s: %w: it was asked to end and still runs", a.Name(), ctx.Err())
	}
	ctx = context.WithoutCancel(ctx)
	if err != nil { // out of patience
		if err := a.Cgroup().Kill(ctx); err != nil {
			return err
		}
	}
	<-a.ended
	a.mu.Lock()
	exit := a.exit.String()
	a.mu.Unlock()
	return eng.stopped(ctx, a, exit)
}

// stopHeld drops a held app without waking it. The caller has its turn.
func (eng *Engine) stopHeld(ctx context.Context, a *App, exit string) error {
	err := a.Change(func(r *app.Record) {
		r.Status, r.StatusAt = app.Stopped, time.Now()
		r.Exit, r.Memory, r.HostFiles = exit, nil, nil
	})
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	defer eng.Storage.SweepSoon()
	eng.Events.Emit(event.Exited, event.About{App: a.Name(), Reason: exit})
	return errors.Join(a.release(ctx), a.Hibernation().Remove(), eng.takeDown(ctx, a))
}
