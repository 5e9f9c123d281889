package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
)

// Stop ends an app. A held one is dropped without waking it: its connections
// are reset.
func (eng *Engine) Stop(ctx context.Context, a *App, sig unix.Signal, grace time.Duration) error {
	release, err := a.Take(ctx, "stop")
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
		return &app.StepError{App: a.Name(), From: a.Status(), To: app.Stopped}
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
	err := a.Step(app.Stopped, journal.Forever, func(r *app.Record) { r.Exit, r.Memory, r.HostFiles = exit, nil, nil })
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	defer eng.Storage.SweepSoon()
	eng.Events.Emit(event.Exited, event.About{App: a.Name(), Reason: exit})
	return errors.Join(a.release(ctx), a.Hibernation().Remove(), eng.takeDown(ctx, a))
}

// Remove ends an app that runs or is held, if force says so, and removes all that is left of
// it.
func (eng *Engine) Remove(ctx context.Context, a *App, force bool) error {
	name := a.Name()
	release, err := a.Take(ctx, "rm")
	if err != nil {
		return err
	}
	defer release()
	if a.Gone() {
		return fmt.Errorf("app %s: %w", name, errdefs.ErrNotFound)
	}
	if s := a.Status(); s != app.Stopped && s != app.Removing && !force {
		return Refusef("app %s is %s: stop it first, or use --force", name, s)
	}
	return eng.Expunge(context.WithoutCancel(ctx), a)
}
