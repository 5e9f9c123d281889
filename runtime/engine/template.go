package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// TemplateRequest says what CreateTemplate makes, of an app or of a snapshot.
type TemplateRequest struct {
	Name, Snapshot, Rules string
	App                   *App
	Op                    *event.Operation
}

// CreateTemplate makes a template. If it fails nothing is left of it.
func (eng *Engine) CreateTemplate(ctx context.Context, req TemplateRequest) (_ *catalog.Template, _ *Outcome, err error) {
	draft, err := eng.Catalog.Begin(req.Name, req.Snapshot, req.Rules)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, draft.Drop())
			eng.Storage.SweepSoon()
		}
	}()
	out := &Outcome{}
	if req.App != nil {
		own := func(ctx context.Context) error {
			return errors.Join(draft.Owns(), fault.Point(ctx, fault.TemplateAfterRecord))
		}
		_, out, err = eng.TakeSnapshot(ctx, req.App, SnapshotRequest{
			Name: req.Name, whole: draft.Rules.Memory == template.MemoryCopied, reserved: own, Op: req.Op,
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if err := fault.Point(ctx, fault.TemplateAfterSnapshot); err != nil {
		return nil, nil, err
	}
	req.Op.Step("check snapshot")
	s, err := eng.openSnapshot(ctx, draft.Snapshot, snapshot.ByDigest)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	if !s.Manifest.WithStorage {
		return nil, nil, Refusef("snapshot %s has no files: a template needs them", draft.Snapshot)
	}
	images, err := draft.Inspect(ctx, s.inspect)
	if err != nil {
		return nil, nil, err
	}
	if note := repeats(images.Repeats, cloned); note != nil {
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
func (eng *Engine) RemoveTemplate(ctx context.Context, name string) error {
	t, err := eng.Catalog.Get(name)
	if err != nil {
		return err
	}
	if err := eng.Catalog.Remove(ctx, t, func() []string { return eng.ClonesOf(name) }); err != nil {
		return err
	}
	eng.Storage.SweepSoon()
	var errs []error
	for _, a := range eng.Apps.List() {
		if a.pool == t { // if it is handed out it was before, and then it has been removed
			errs = append(errs, eng.dropPooled(ctx, a))
		}
	}
	eng.Pools.Soon() // once more, if that failed
	return errors.Join(errs...)
}

// ClonesOf lists the apps that are clones of a template, by their numbers.
func (eng *Engine) ClonesOf(name string) []string {
	var clones []app.Record
	for _, a := range eng.Apps.List() {
		if rec, _ := a.Read(); rec.Template == name {
			clones = append(clones, rec)
		}
	}
	slices.SortFunc(clones, func(a, b app.Record) int { return cmp.Compare(a.Number, b.Number) })
	names := make([]string, len(clones))
	for i := range clones {
		names[i] = clones[i].Name
	}
	return names
}
