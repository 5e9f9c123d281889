package daemon

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

// templateRequest says what createTemplate makes, of an app or of a snapshot.
type templateRequest struct {
	name, snapshot, rules string
	app                   *App
	op                    *event.Operation
}

// createTemplate makes a template. If it fails nothing is left of it.
func (d *Daemon) createTemplate(ctx context.Context, req templateRequest) (_ *catalog.Template, _ *outcome, err error) {
	draft, err := d.catalog.Begin(req.name, req.snapshot, req.rules)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, draft.Drop())
			d.storage.SweepSoon()
		}
	}()
	out := &outcome{}
	if req.app != nil {
		own := func(ctx context.Context) error {
			return errors.Join(draft.Owns(), fault.Point(ctx, fault.TemplateAfterRecord))
		}
		_, out, err = d.takeSnapshot(ctx, req.app, snapshotRequest{
			name: req.name, whole: draft.Rules.Memory == template.MemoryCopied, reserved: own, op: req.op,
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if err := fault.Point(ctx, fault.TemplateAfterSnapshot); err != nil {
		return nil, nil, err
	}
	req.op.Step("check snapshot")
	s, err := d.openSnapshot(ctx, draft.Snapshot, snapshot.ByDigest)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	if !s.Manifest.WithStorage {
		return nil, nil, refusef("snapshot %s has no files: a template needs them", draft.Snapshot)
	}
	images, err := draft.Inspect(ctx, s.inspect)
	if err != nil {
		return nil, nil, err
	}
	if note := repeats(images.Repeats, cloned); note != nil {
		out.notes = append(out.notes, *note)
	}
	if err := draft.Commit(); err != nil {
		return nil, nil, err
	}
	if err := fault.Point(ctx, fault.TemplateAfterCommit); err != nil {
		return nil, nil, err
	}
	return draft.Add(), out, nil
}

// removeTemplate removes a template that has no clones, and what stands ready in
// its pool.
func (d *Daemon) removeTemplate(ctx context.Context, name string) error {
	t, err := d.catalog.Get(name)
	if err != nil {
		return err
	}
	if err := d.catalog.Remove(ctx, t, func() []string { return d.clonesOf(name) }); err != nil {
		return err
	}
	d.storage.SweepSoon()
	var errs []error
	for _, a := range d.apps.List() {
		if a.pool == t { // if it is handed out it was before, and then it has been removed
			errs = append(errs, d.dropPooled(ctx, a))
		}
	}
	d.pools.Soon() // once more, if that failed
	return errors.Join(errs...)
}

// clonesOf lists the apps that are clones of a template, by their numbers.
func (d *Daemon) clonesOf(name string) []string {
	var clones []app.Record
	for _, a := range d.apps.List() {
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
