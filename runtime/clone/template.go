package clone

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// TemplateRequest says what CreateTemplate makes, of an app or of a snapshot.
type TemplateRequest struct {
	Name, Snapshot, Rules string
	App                   *engine.App
	Op                    *event.Operation
}

// CreateTemplate makes a template. If it fails nothing is left of it.
func (c *Clones) CreateTemplate(ctx context.Context, req TemplateRequest) (_ *catalog.Template, _ *engine.Outcome, err error) {
	draft, err := c.Catalog.Begin(req.Name, req.Snapshot, req.Rules)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, draft.Drop())
			c.Freed()
		}
	}()
	out := &engine.Outcome{}
	if req.App != nil {
		own := func(ctx context.Context) error {
			return errors.Join(draft.Owns(), fault.Point(ctx, fault.TemplateAfterRecord))
		}
		_, out, err = c.Engine.TakeSnapshot(ctx, req.App, engine.SnapshotRequest{
			Name: req.Name, Whole: draft.Rules.Memory == template.MemoryCopied, Reserved: own, Op: req.Op,
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if err := fault.Point(ctx, fault.TemplateAfterSnapshot); err != nil {
		return nil, nil, err
	}
	req.Op.Step("check snapshot")
	opened, err := c.Store.Open(ctx, draft.Snapshot, snapshot.ByDigest)
	if err != nil {
		return nil, nil, err
	}
	s := engine.Source{Snapshot: opened}
	defer s.Close()
	if !s.Manifest.WithStorage {
		return nil, nil, engine.Refusef("snapshot %s has no files: a template needs them", draft.Snapshot)
	}
	images, err := draft.Inspect(ctx, s.Inspect)
	if err != nil {
		return nil, nil, err
	}
	if note := engine.Repeats(images.Repeats, engine.Cloned); note != nil {
		out.Notes = append(out.Notes, *note)
	}
	if err := draft.Commit(); err != nil {
		return nil, nil, err
	}
	if err := fault.Point(ctx, fault.TemplateAfterCommit); err != nil {
		return nil, nil, err
	}
	return draft.Add(), out, nil
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
