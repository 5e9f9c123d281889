package drain

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/move"
	"github.com/snapctl/snapctl/runtime/sandbox"
)

// App is an app of this host.
type App struct {
	Name   string
	Status app.Status
	Bytes  int64 // of memory that its processes use
}

// Apps are those of this host.
type Apps interface {
	// Names are those of all apps, sorted, without clones that stand ready.
	Names() []string
	// Await waits until no operation on an app goes on. It returns an error wrapping errdefs.ErrNotFound if there is
	// no such app any more.
	Await(ctx context.Context, name string) (App, error)
	// Move moves an app, see [move.Mover.Migrate]. told is told of its steps.
	Move(ctx context.Context, name string, req move.Request, told func(step string)) (*move.Report, error)
}

// Mover moves apps, as [move.Mover] does.
type Mover interface {
	Migrate(ctx context.Context, a *engine.App, req move.Request) (*move.Report, error)
}

// Fleet are the apps of an engine.
type Fleet struct {
	Engine *engine.Engine
	Mover  Mover
}

// Names implements [Apps].
func (f Fleet) Names() (list []string) {
	for _, a := range f.Engine.Apps.List() {
		if rec, _ := a.Read(); rec.Pool == "" {
			list = append(list, rec.Name)
		}
	}
	return list
}

// Await implements [Apps].
func (f Fleet) Await(ctx context.Context, name string) (App, error) {
	ctx, cancel := context.WithTimeout(ctx, engine.DefaultTimeout)
	defer cancel()
	a, err := f.Engine.Apps.Get(name)
	if err != nil {
		return App{}, err
	}
	release, err := f.Engine.Turn(ctx, a, "drain")
	if err != nil {
		return App{}, err
	}
	defer release()
	found := App{Name: name, Status: a.Status()}
	if found.Status == app.Running {
		pids, err := a.Cgroup().PIDs()
		if err != nil {
			return App{}, err
		}
		found.Bytes = sandbox.UsedBytes(pids)
	}
	return found, nil
}

// Move implements [Apps].
func (f Fleet) Move(ctx context.Context, name string, req move.Request, told func(step string)) (_ *move.Report, err error) {
	a, err := f.Engine.Apps.Get(name)
	if err != nil {
		return nil, err
	}
	if req.DryRun {
		return f.Mover.Migrate(ctx, a, req)
	}
	op := f.Engine.Events.Begin(event.Migrate, event.About{App: name, Reason: fmt.Sprintf("to host %s, since this one is drained", req.To)})
	end := f.Engine.Events.Listen(ctx, event.Options{Filter: event.Filter{Operation: op.ID(), Types: []event.Type{event.Step}}}, func(e event.Event) { told(e.Step) })
	defer end()
	defer func() { op.End(err) }()
	req.Op = op
	return f.Mover.Migrate(ctx, a, req)
}

// gone tells whether an error is that there is no such app any more.
func gone(err error) bool { return errdefs.IsNotFound(err) }
