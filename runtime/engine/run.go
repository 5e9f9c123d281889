package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
)

var runTable = journal.Table{
	Name: "run", Doing: string(app.Creating), From: []string{""},
	Steps: []journal.Step{
		{Name: "begun", Means: "the app is recorded, nothing is made", Keep: journal.UntilReboot},
		{Name: "furnished", Means: "mounts, cgroup and namespaces are made"},
		{Name: "attached", Means: "the endpoint is attached"},
		{Name: "started", Means: "the program runs"},
		{Name: "recorded", Means: "the app is recorded as running", Keep: journal.Forever, Ends: string(app.Running), Commits: true},
	},
}

// Run makes a new app from a valid record and starts its program. If it fails
// nothing is left of it.
func (eng *Engine) Run(ctx context.Context, rec app.Record) (*App, error) {
	r, release, err := eng.Enroll(ctx, rec, eng.kinds.run, nil)
	if err != nil {
		return nil, err
	}
	defer release()
	return r.Subject, r.Do(ctx, func(ctx context.Context) error { return eng.start(ctx, r) })
}

// start makes the sandbox of an enrolled app and starts its program.
func (eng *Engine) start(ctx context.Context, r *Run) (err error) {
	a := r.Subject
	ns, err := eng.Enclose(ctx, a)
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	launch, err := a.Box.Launch(ctx, ns)
	if err != nil {
		return fmt.Errorf("run %s: %w", a.Name(), err)
	}
	defer func() { err = errors.Join(err, launch.Close()) }()
	if err := a.Box.Furnish(ctx); err != nil {
		return err
	}
	if err := r.At(ctx, "furnished"); err != nil {
		return err
	}
	if err := a.Endpoint.Attach(ctx, ns); err != nil {
		return err
	}
	a.ready = true
	if err := r.At(ctx, "attached"); err != nil {
		return err
	}
	proc, err := launch.Run()
	if err != nil {
		return fmt.Errorf("run %s: %w", a.Name(), err)
	}
	if err := r.At(ctx, "started"); err != nil {
		return errors.Join(err, proc.Close())
	}
	return eng.Adopt(ctx, r, proc)
}
