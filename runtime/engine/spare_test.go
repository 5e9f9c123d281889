package engine_test

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/testenv"
)

// standTable is of an operation that the engine does not have, by which an app stands ready.
var standTable = journal.Table{
	Name: "stand", Doing: string(app.Restoring), From: []string{""},
	Steps: []journal.Step{
		{Name: "begun", Means: "it is recorded", Keep: journal.UntilReboot},
		{Name: "started", Means: "its program has started"},
		{Name: "recorded", Means: "it stands ready", Keep: journal.UntilReboot, Ends: string(app.Pooled)},
	},
}

// pool is a room above the engine that has apps stand ready.
type pool struct {
	*enginetest.World
	kind *engine.Kind
}

func newPool(t *testing.T) *pool {
	t.Helper()
	testenv.Need(t, testenv.Root)
	p := &pool{World: enginetest.Place(t)}
	p.Know = func(eng *engine.Engine) {
		p.kind = eng.BirthKind(standTable)
		eng.Know(p.kind)
	}
	p.Open()
	return p
}

// stand has an app stand ready.
func (p *pool) stand(ctx context.Context, name string) (*engine.App, error) {
	rec := enginetest.Record("_pool-" + name)
	rec.ID, rec.Pool = rec.Name, "template"
	r, release, err := p.Engine.Enroll(ctx, rec, p.kind, nil)
	if err != nil {
		return nil, err
	}
	defer release()
	a := r.Subject
	err = r.Do(ctx, func(ctx context.Context) error {
		ns, err := p.Engine.Prepare(ctx, a)
		if err != nil {
			return err
		}
		defer ns.Close()
		launch, err := a.Box.Launch(ctx, ns)
		if err != nil {
			return err
		}
		proc, err := launch.Run()
		if err := errors.Join(err, launch.Close()); err != nil {
			return err
		}
		if err := r.At(ctx, "started"); err != nil {
			return errors.Join(err, proc.Close())
		}
		return p.Engine.Adopt(ctx, r, proc)
	})
	if err == nil {
		a.Endpoint.Ready()
	}
	return a, err
}

// An app that stands ready ends with the daemon, by itself, or when it is dropped, and nothing is left
// of it. So it is with one that could not be made.
func TestAppsThatStandReadyEnd(t *testing.T) {
	p := newPool(t)
	for _, s := range standTable.Steps {
		_, err := p.stand(p.Failing("stand."+s.Name), "broken")
		qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		p.IsGone("_pool-broken")
		qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0), qt.Commentf("%s", s.Name))
	}
	dropped, err := p.stand(t.Context(), "dropped")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(dropped.Status(), app.Pooled))
	qt.Check(t, qt.IsFalse(dropped.HasEnded()))
	qt.Assert(t, qt.IsNil(p.Engine.DropReady(t.Context(), dropped)))
	p.IsGone("_pool-dropped")
	qt.Check(t, qt.IsTrue(dropped.HasEnded()))

	ends, err := p.stand(t.Context(), "ends")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(unix.Kill(ends.Process().PID, unix.SIGKILL)))
	p.Until("it is stopped", func() bool { return ends.Status() == app.Stopped && ends.Free() })
	qt.Check(t, qt.IsNil(p.Engine.DropReady(t.Context(), ends)))
	p.IsGone("_pool-ends")

	stays, err := p.stand(t.Context(), "stays")
	qt.Assert(t, qt.IsNil(err))
	left, err := p.stand(t.Context(), "left")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(p.Close()))
	rec, err := app.Read(left.Dir())
	qt.Assert(t, qt.IsNil(err))
	rec.Status, rec.Operation = "", journal.Entry{Kind: "stand", Step: "begun", Doing: string(app.Restoring)}
	qt.Assert(t, qt.IsNil(rec.Write(left.Dir(), journal.UntilReboot)))
	p.Open()
	p.IsGone(stays.Name())
	p.IsGone(left.Name())
}

// Whoever asks for the address of an app that stands ready gets it.
func TestAddressOfAnAppThatStandsReady(t *testing.T) {
	p := newPool(t)
	ready, err := p.stand(t.Context(), "1")
	qt.Assert(t, qt.IsNil(err))
	was, _ := ready.Read()
	rec := enginetest.Record("asks")
	rec.Addr4 = was.Addr4
	a, err := p.Engine.Run(t.Context(), rec)
	qt.Assert(t, qt.IsNil(err))
	now, _ := a.Read()
	qt.Check(t, qt.Equals(now.Addr4, was.Addr4))
	p.IsRunning(a)
	p.IsGone("_pool-1")
}

// A new app gets ports of the host that no other one has.
func TestPortsOfANewApp(t *testing.T) {
	w := newWorld(t)
	a, other := w.Run("web"), w.Run("other")
	port := template.Published{Protocol: "tcp", HostPort: 18080, Port: 80}
	qt.Assert(t, qt.IsNil(w.Engine.AddPublications(a, nil)))
	qt.Assert(t, qt.IsNil(w.Engine.AddPublications(a, []template.Published{port})))
	rec, _ := a.Read()
	qt.Assert(t, qt.HasLen(rec.Publish, 1))
	qt.Check(t, qt.Equals(rec.Publish[0], app.Publication{Proto: "tcp", HostPort: 18080, Port: 80}))
	err := w.Engine.AddPublications(other, []template.Published{port})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorMatches(err, "publish host port 18080/tcp: already exists: app web has it"))
	rec, _ = other.Read()
	qt.Check(t, qt.HasLen(rec.Publish, 0))
}
