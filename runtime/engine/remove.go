package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
)

var removeTable = journal.Table{
	Name: "remove", Doing: string(app.Removing), Done: "removed",
	Steps: []journal.Step{
		// A full disk is no reason to keep what fills it. If this daemon dies before the
		// end, the next one has the app as it was, but stopped.
		{Name: "begun", Means: "the intent is recorded", Keep: journal.UntilReboot, IfRoom: true, Commits: true},
		{Name: "killed", Means: "the processes are gone"},
		{Name: "detached", Means: "the endpoint is detached"},
		{Name: "unmade", Means: "mounts, cgroup and namespaces are gone"},
		{Name: "forgotten", Means: "the record is gone, the memory files that it named are not"},
	},
}

func (eng *Engine) removeKind() *Kind { return &Kind{Table: removeTable, Finish: eng.unmake} }

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
		return app.Refusef("app %s is %s: stop it first, or use --force", name, s)
	}
	return eng.Expunge(context.WithoutCancel(ctx), a)
}

// Expunge ends an app and removes all there is of it, whatever is done to it. It can be
// repeated. The caller has the app's turn.
func (eng *Engine) Expunge(ctx context.Context, a *App) error {
	if a.Gone() {
		return nil
	}
	r, err := eng.kinds.remove.Begin(a, nil)
	if err != nil {
		return err
	}
	return r.Do(ctx, func(ctx context.Context) error { return eng.unmake(ctx, r) })
}

// unmake is Expunge once it is recorded. It can be repeated.
func (eng *Engine) unmake(ctx context.Context, r *Run) error {
	a := r.Subject
	if a.Gone() {
		return nil
	}
	if err := a.Cgroup().Kill(ctx); err != nil {
		return err
	}
	if a.proc == nil { // its program may run already, and nobody waits for it yet
		if err := process.Reap(a.Box.Cgroup().Name()); err != nil {
			return err
		}
	}
	a.dropProcess()
	if err := a.release(ctx); err != nil {
		return err
	}
	if err := r.At(ctx, "killed"); err != nil {
		return err
	}
	if err := a.detach(ctx); err != nil {
		return err
	}
	if err := r.At(ctx, "detached"); err != nil {
		return err
	}
	if err := a.Box.Remove(); err != nil {
		return err
	}
	if err := r.At(ctx, "unmade"); err != nil {
		return err
	}
	if err := app.RemoveDir(a.Dir()); err != nil {
		return err
	}
	rec, _ := a.Read()
	eng.Apps.Remove(a)
	a.Endpoint.Free()
	if rec.Pool == "" {
		eng.Events.Emit(event.Removed, event.About{App: rec.Name})
	}
	defer eng.Storage.SweepSoon()
	return r.At(ctx, "forgotten")
}
