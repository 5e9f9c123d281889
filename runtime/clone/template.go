package clone

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// TemplateRequest says what CreateTemplate makes, of an app or of a snapshot.
type TemplateRequest struct {
	Name, Snapshot, Rules string
	App                   *engine.App
	Op                    *event.Operation
}

var templateTable = journal.Table{
	Name: "create-template",
	Steps: []journal.Step{
		{Name: "begun", Means: "it is decided, and nothing recorded"},
		{Name: "owned", Means: "the intent is recorded: a snapshot of the template's name is the template's", Keep: journal.Forever},
		{Name: "saved", Means: "the snapshot that it is made of is there", Then: "check snapshot"},
		{Name: "recorded", Means: "the template is recorded", Keep: journal.Forever, Ends: journal.Same, Commits: true},
	},
}

// drafted is a template that is being made.
type drafted struct{ draft *catalog.Draft }

var _ journal.Subject = (*drafted)(nil)

// Mark implements [journal.Subject]. A template of which only the intent is on record is removed
// by the next daemon: see [catalog.Open].
func (d *drafted) Mark(m journal.Mark) error {
	switch {
	case m.Keep == journal.Nothing:
		return nil
	case m.Ends == "":
		return d.draft.Owns()
	default:
		return d.draft.Commit()
	}
}

// Name implements [journal.Subject].
func (d *drafted) Name() string { return d.draft.Name }

// Note implements [journal.Subject].
func (d *drafted) Note(error) {}

// CreateTemplate makes a template. If it fails nothing is left of it.
func (c *Clones) CreateTemplate(ctx context.Context, req TemplateRequest) (_ *catalog.Template, _ *engine.Outcome, err error) {
	draft, err := c.Catalog.Begin(req.Name, req.Snapshot, req.Rules)
	if err != nil {
		return nil, nil, err
	}
	kind := journal.Kind[*drafted]{Table: templateTable, Log: c.log, Undo: func(_ context.Context, r *journal.Run[*drafted]) error {
		defer c.Freed()
		return r.Subject.draft.Drop()
	}}
	r, err := kind.Begin(&drafted{draft}, req.Op)
	if err != nil {
		return nil, nil, errors.Join(err, draft.Drop())
	}
	out := &engine.Outcome{}
	err = r.Do(ctx, func(ctx context.Context) error {
		if req.App != nil {
			_, out, err = c.Engine.TakeSnapshot(ctx, req.App, engine.SnapshotRequest{
				Name: req.Name, Whole: draft.Rules.Memory == template.MemoryCopied, Op: req.Op,
				Reserved: func(ctx context.Context) error { return r.At(ctx, "owned") },
			})
			if err != nil {
				return err
			}
		}
		if err := r.At(ctx, "saved"); err != nil {
			return err
		}
		if err := c.checkSnapshot(ctx, draft, out); err != nil {
			return err
		}
		return r.At(ctx, "recorded")
	})
	if err != nil {
		return nil, nil, err
	}
	return draft.Add(), out, nil
}

// checkSnapshot reads all of the snapshot that a template is going to be made of, and notes
// what its clones would have in common.
func (c *Clones) checkSnapshot(ctx context.Context, draft *catalog.Draft, out *engine.Outcome) error {
	opened, err := c.Store.Open(ctx, draft.Snapshot, snapshot.ByDigest)
	if err != nil {
		return err
	}
	s := source.Source{Snapshot: opened}
	defer s.Close()
	if !s.Manifest.WithStorage {
		return app.Refusef("snapshot %s has no files: a template needs them", draft.Snapshot)
	}
	images, err := draft.Inspect(ctx, s.Inspect)
	if err != nil {
		return err
	}
	if note := source.Repeats(images.Repeats, source.Cloned); note != nil {
		out.Notes = append(out.Notes, *note)
	}
	return nil
}

// RemoveTemplate removes a template that has no clones, and what stands ready in
// its pool.
func (c *Clones) RemoveTemplate(ctx context.Context, name string) error {
	t, err := c.Catalog.Get(name)
	if err != nil {
		return err
	}
	if err := c.Catalog.Remove(ctx, t, func() []string { return c.Of(name) }); err != nil {
		return err
	}
	c.Freed()
	var errs []error
	for _, a := range c.standing(t) { // if it is handed out it was before, and then it has been removed
		errs = append(errs, c.drop(ctx, a))
	}
	c.Soon() // once more, if that failed
	return errors.Join(errs...)
}
