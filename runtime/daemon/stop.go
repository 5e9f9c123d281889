package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
)

// Stop implements the API: it ends the app's program, and keeps the app's
// record, log and files.
func (d *Daemon) Stop(ctx context.Context, req *api.StopRequest) (*api.App, error) {
	a, err := d.find(req.GetName())
	if err != nil {
		return nil, err
	}
	sig := unix.SIGTERM
	if text := req.GetSignal(); text != "" {
		name := strings.ToUpper(text)
		if !strings.HasPrefix(name, "SIG") {
			name = "SIG" + name
		}
		if sig = unix.SignalNum(name); sig == 0 {
			return nil, fmt.Errorf("signal %q: %w: no such signal", text, errdefs.ErrInvalidArgument)
		}
	}
	grace := cmp.Or(req.GetTimeout().AsDuration(), 10*time.Second)
	op := d.events.Begin(event.Stop, event.About{App: req.GetName()})
	err = d.stop(ctx, a, sig, grace)
	op.End(err)
	if err != nil {
		return nil, err
	}
	return d.show(a), nil
}

// stop ends an app. A held one is dropped without waking it: its connections
// are reset.
func (d *Daemon) stop(ctx context.Context, a *App, sig unix.Signal, grace time.Duration) error {
	release, err := a.take(ctx, "stop")
	if err != nil {
		return err
	}
	defer release()
	switch a.status() { //nolint:exhaustive // the others are steps of an operation, and this one has the turn
	case app.Stopped:
		return nil
	case app.Held:
		return d.stopHeld(ctx, a, "stopped while held")
	case app.Running:
	default:
		return &app.StepError{App: a.name(), From: a.status(), To: app.Stopped}
	}
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err = a.proc.Stop(patience, sig, a.ended)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("stop %s: %w: it was asked to end and still runs", a.name(), ctx.Err())
	}
	ctx = context.WithoutCancel(ctx)
	if err != nil { // out of patience
		if err := a.cgroup().Kill(ctx); err != nil {
			return err
		}
	}
	<-a.ended
	a.mu.Lock()
	exit := a.exit.String()
	a.mu.Unlock()
	return d.stopped(ctx, a, exit)
}

// stopHeld drops a held app without waking it. The caller has its turn.
func (d *Daemon) stopHeld(ctx context.Context, a *App, exit string) error {
	err := a.step(app.Stopped, journal.Forever, func(r *app.Record) { r.Exit, r.Memory, r.HostFiles = exit, nil, nil })
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	defer d.sweepSoon()
	d.events.Emit(event.Exited, event.About{App: a.name(), Reason: exit})
	return errors.Join(d.release(ctx, a), a.hibernation().Remove(), d.takeDown(ctx, a))
}

// Remove implements the API.
func (d *Daemon) Remove(ctx context.Context, req *api.RemoveRequest) (*api.RemoveResponse, error) {
	a, err := d.find(req.GetName())
	if err != nil {
		return nil, err
	}
	op := d.events.Begin(event.Remove, event.About{App: req.GetName()})
	err = d.remove(ctx, a, req)
	op.End(err)
	if err != nil {
		return nil, err
	}
	return &api.RemoveResponse{}, nil
}

func (d *Daemon) remove(ctx context.Context, a *App, req *api.RemoveRequest) error {
	release, err := a.take(ctx, "rm")
	if err != nil {
		return err
	}
	defer release()
	if a.gone {
		return fmt.Errorf("app %s: %w", req.GetName(), errdefs.ErrNotFound)
	}
	if s := a.status(); s != app.Stopped && s != app.Removing && !req.GetForce() {
		return refusef("app %s is %s: stop it first, or use --force", req.GetName(), s)
	}
	return d.expunge(context.WithoutCancel(ctx), a)
}
