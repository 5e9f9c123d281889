package birth

import (
	"context"
	"os"
	"testing"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

func TestMain(m *testing.M) {
	os.Exit(enginetest.Main(m, leak.Main, map[string]func() error{enginetest.DoomedRole: doomed}))
}

// bench makes apps on the bench of a test, or of a daemon that is killed.
type bench struct {
	on    *enginetest.Bench
	maker *Maker
}

// world is a world with a maker of apps.
type world struct {
	*enginetest.World
	bench // on that of the world
}

// newPlace is a world that is not open yet.
func newPlace(t *testing.T) *world {
	t.Helper()
	testenv.Need(t, testenv.Root)
	w := &world{World: enginetest.Place(t)}
	w.Know = func(eng *engine.Engine) { w.bench = bench{w.Bench, New(eng)} }
	return w
}

// newWorld is a world without apps.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := newPlace(t)
	w.Open()
	return w
}

// saved opens a snapshot. The caller closes it.
func (b *bench) saved(ctx context.Context, name string) (*source.Source, app.Record, error) {
	s, err := b.maker.BeginSnapshot(ctx, name, snapshot.ByStamp)
	if err != nil {
		return nil, app.Record{}, err
	}
	rec, err := source.RecordOf(s.Manifest)
	if err != nil {
		s.Close()
		return nil, app.Record{}, err
	}
	return s, *rec, nil
}

// restore makes an app of a snapshot, as `snapctl restore` does.
func (b *bench) restore(ctx context.Context, from, name string) (*engine.App, error) {
	s, rec, err := b.saved(ctx, from)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	rec.Name = name
	a, _, err := b.maker.Restore(ctx, RestoreRequest{Source: s, Record: rec, Op: b.on.Operation(event.Restore)})
	return a, err
}

// clone makes a clone of a snapshot, at once.
func (b *bench) clone(ctx context.Context, from, name string) error {
	_, err := b.cloneBy(ctx, from, name, sameAgain(), Birth{})
	return err
}

// cloneBy makes a clone by rules, and as born says.
func (b *bench) cloneBy(ctx context.Context, from, name string, rules *template.Rules, born Birth) (*engine.App, error) {
	s, rec, err := b.saved(ctx, from)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	rec.Name, rec.Template, rec.Number, rec.Generation = name, "template", 1, template.NewGeneration()
	born.Source = s
	if born.Images == nil {
		born.Images = &template.Images{}
	}
	free, err := b.on.Engine.Apps.Reserve(name)
	if err != nil {
		return nil, err
	}
	defer free()
	r, release, err := b.maker.Enroll(ctx, rec, &born, b.on.Operation(event.Clone))
	if err != nil {
		return nil, err
	}
	defer release()
	return r.Subject, r.Do(ctx, func(ctx context.Context) (err error) {
		if born.Plan, err = rules.Plan(Instance(r.Subject, 1, 0, nil)); err != nil {
			return err
		}
		return b.maker.Instantiate(ctx, r, born)
	})
}

// fill has a clone of a snapshot stand ready.
func (b *bench) fill(ctx context.Context, from, name string) (*engine.App, error) {
	s, rec, err := b.saved(ctx, from)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	rec.Name, rec.ID, rec.Pool, rec.Generation = "_pool-"+name, "_pool-"+name, "template", template.NewGeneration()
	born := Birth{Source: s, Images: &template.Images{}}
	r, release, err := b.maker.Enroll(ctx, rec, &born, b.on.Operation(event.FillPool))
	if err != nil {
		return nil, err
	}
	defer release()
	return r.Subject, r.Do(ctx, func(ctx context.Context) error { return b.maker.MakeReady(ctx, r, born, sameAgain()) })
}

// handOut gives a clone that stands ready a name.
func (b *bench) handOut(ctx context.Context, a *engine.App, name string) error {
	return b.handOutBy(ctx, a, name, sameAgain())
}

// handOutBy hands a clone out by rules.
func (b *bench) handOutBy(ctx context.Context, a *engine.App, name string, rules *template.Rules) error {
	free, err := b.on.Engine.Apps.Reserve(name)
	if err != nil {
		return err
	}
	defer free()
	r, release, err := b.maker.TakeReady(a, name, func(rec *app.Record) { rec.Template, rec.Number = "template", 2 })
	if err != nil || r == nil {
		return err
	}
	defer release()
	return r.Do(ctx, func(ctx context.Context) error {
		plan, err := rules.Plan(Instance(a, 1, 0, nil))
		if err != nil {
			return err
		}
		return b.maker.HandOut(ctx, r, plan)
	})
}
