package engine

import (
	"context"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// saved opens a snapshot. The caller closes it.
func (b *bench) saved(ctx context.Context, name string) (*source.Source, app.Record, error) {
	s, err := b.eng.BeginSnapshot(ctx, name, snapshot.ByStamp)
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
func (b *bench) restore(ctx context.Context, from, name string) (*App, error) {
	s, rec, err := b.saved(ctx, from)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	rec.Name = name
	a, _, err := b.eng.Restore(ctx, RestoreRequest{Source: s, Record: rec, Op: b.operation(event.Restore)})
	return a, err
}

// clone makes a clone of a snapshot, at once.
func (b *bench) clone(ctx context.Context, from, name string) error {
	_, err := b.cloneBy(ctx, from, name, sameAgain())
	return err
}

// cloneBy makes a clone by rules.
func (b *bench) cloneBy(ctx context.Context, from, name string, rules *template.Rules) (*App, error) {
	s, rec, err := b.saved(ctx, from)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	rec.Name, rec.Template, rec.Number, rec.Generation = name, "template", 1, template.NewGeneration()
	born := Birth{Source: s, Images: &template.Images{}}
	free, err := b.eng.Apps.Reserve(name)
	if err != nil {
		return nil, err
	}
	defer free()
	r, release, err := b.eng.Enroll(ctx, rec, &born, b.operation(event.Clone))
	if err != nil {
		return nil, err
	}
	defer release()
	return r.Subject, r.Do(ctx, func(ctx context.Context) (err error) {
		if born.Plan, err = rules.Plan(r.Subject.Instance(1, 0, nil)); err != nil {
			return err
		}
		return b.eng.Instantiate(ctx, r, born)
	})
}

// fill has a clone of a snapshot stand ready.
func (b *bench) fill(ctx context.Context, from, name string) (*App, error) {
	s, rec, err := b.saved(ctx, from)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	rec.Name, rec.ID, rec.Pool, rec.Generation = "_pool-"+name, "_pool-"+name, "template", template.NewGeneration()
	born := Birth{Source: s, Images: &template.Images{}}
	r, release, err := b.eng.Enroll(ctx, rec, &born, b.operation(event.FillPool))
	if err != nil {
		return nil, err
	}
	defer release()
	return r.Subject, r.Do(ctx, func(ctx context.Context) error { return b.eng.MakeReady(ctx, r, born, sameAgain()) })
}

// handOut gives a clone that stands ready a name.
func (b *bench) handOut(ctx context.Context, a *App, name string) error {
	free, err := b.eng.Apps.Reserve(name)
	if err != nil {
		return err
	}
	defer free()
	r, release, err := b.eng.TakeReady(a, name, func(rec *app.Record) { rec.Template, rec.Number = "template", 2 })
	if err != nil || r == nil {
		return err
	}
	defer release()
	return r.Do(ctx, func(ctx context.Context) error {
		plan, err := sameAgain().Plan(a.Instance(1, 0, nil))
		if err != nil {
			return err
		}
		return b.eng.HandOut(ctx, r, plan)
	})
}
