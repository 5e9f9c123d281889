package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// tmpl is one template of this daemon.
type tmpl struct {
	claim *store.Claim // of the snapshot

	// rec does not change, but for the size of the pool, which d.mu guards.
	rec   templateRecord
	rules *template.Rules

	// d.mu guards these.
	making  int          // requests for clones
	numbers map[int]bool // of clones that are being made

	mu      sync.Mutex
	poolErr error           // why the pool could not be filled
	images  *templateImages // nil before the first clone
}

// templateRequest says what createTemplate makes, of an app or of a snapshot.
type templateRequest struct {
	name, snapshot, rules string
	app                   *App
	op                    *event.Operation
}

// createTemplate makes a template. If it fails nothing is left of it.
func (d *Daemon) createTemplate(ctx context.Context, req templateRequest) (_ *tmpl, _ *outcome, err error) {
	if err := snapshot.ValidateName(req.name); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	t := &tmpl{numbers: make(map[int]bool), rec: templateRecord{Name: req.name, CreatedAt: time.Now(), Snapshot: req.snapshot, Rules: req.rules}}
	if t.rules, err = template.Parse([]byte(req.rules)); err != nil {
		return nil, nil, fmt.Errorf("rules: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if err := t.refuse(); err != nil {
		return nil, nil, err
	}
	free, err := d.reserveTemplate(t, req.app != nil)
	if err != nil {
		return nil, nil, err
	}
	defer free()
	defer func() {
		if err != nil {
			err = errors.Join(err, d.dropTemplate(t))
			d.storage.SweepSoon()
		}
	}()
	out := &outcome{}
	if req.app != nil {
		// Only when the snapshot's name is taken too: what has that name before is
		// somebody's.
		own := func(ctx context.Context) error {
			t.rec.Snapshot, t.rec.Own, t.rec.Half = req.name, true, true
			return errors.Join(d.writeTemplate(t.rec), fault.Point(ctx, fault.TemplateAfterRecord))
		}
		_, out, err = d.takeSnapshot(ctx, req.app, snapshotRequest{
			name: req.name, whole: t.rules.Memory == template.MemoryCopied, reserved: own, op: req.op,
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if err := fault.Point(ctx, fault.TemplateAfterSnapshot); err != nil {
		return nil, nil, err
	}
	req.op.Step("check snapshot")
	s, err := d.openSnapshot(ctx, t.rec.Snapshot, snapshot.ByDigest)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	if !s.Manifest.WithStorage {
		return nil, nil, refusef("snapshot %s has no files: a template needs them", t.rec.Snapshot)
	}
	images, err := t.inspect(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	if images.repeats != nil {
		out.notes = append(out.notes, *images.repeats)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t.rec.Half = false
	if err := d.writeTemplate(t.rec); err != nil {
		return nil, nil, err
	}
	d.templates[req.name] = t
	if err := fault.Point(ctx, fault.TemplateAfterCommit); err != nil {
		delete(d.templates, req.name)
		return nil, nil, err
	}
	return t, out, nil
}

// isMadeOfIt is why a snapshot stays while a template is made of it, and as long as the template is there.
func isMadeOfIt(template string) store.Reason {
	return store.Reason{Why: fmt.Sprintf("template %s is made of it", template), Remedy: "remove that first"}
}

// reserveTemplate gives a template its name while it is made, and claims the snapshot that it is
// made of.
func (d *Daemon) reserveTemplate(t *tmpl, fromApp bool) (free func(), err error) {
	rec := &t.rec
	d.mu.Lock()
	defer d.mu.Unlock()
	_, made := d.templates[rec.Name]
	if made || d.making[rec.Name] {
		return nil, fmt.Errorf("template %s: %w", rec.Name, errdefs.ErrAlreadyExists)
	}
	if _, err := os.Lstat(d.templateFile(rec.Name)); err == nil {
		return nil, fmt.Errorf("template %s: %w: it is half removed, or can't be read; remove %s", rec.Name, errdefs.ErrAlreadyExists, d.templateFile(rec.Name))
	}
	if fromApp {
		// The snapshot gets the template's name, and must stay when it is there.
		t.claim = d.store.Expect(rec.Name, isMadeOfIt(rec.Name))
	} else if t.claim, err = d.store.Claim(rec.Snapshot, isMadeOfIt(rec.Name)); err != nil {
		return nil, fmt.Errorf("%w: it is being written or removed", err)
	}
	d.making[rec.Name] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.making, rec.Name)
	}, nil
}

// refuse refuses rules that this daemon can't follow.
func (t *tmpl) refuse() error {
	if c := t.rules.Connections; c.Inbound == template.ConnectionKeep || c.Outbound == template.ConnectionKeep {
		return fmt.Errorf("rules: connections: keep: %w: a connection has one other end, which is connected to the app that was saved and not to a clone; "+
			"hibernate that app and wake it to have it back with its connections, or use reset", errdefs.ErrNotImplemented)
	}
	return nil
}

func (d *Daemon) findTemplate(name string) (*tmpl, error) {
	if err := snapshot.ValidateName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if t, ok := d.templates[name]; ok {
		return t, nil
	}
	return nil, fmt.Errorf("template %s: %w", name, errdefs.ErrNotFound)
}

// removeTemplate removes a template that has no clones, and what stands ready in
// its pool.
func (d *Daemon) removeTemplate(ctx context.Context, name string) error {
	t, err := d.findTemplate(name)
	if err != nil {
		return err
	}
	if err := d.forgetTemplate(t); err != nil {
		return err
	}
	d.storage.SweepSoon()
	var errs []error
	for _, a := range d.apps.List() {
		if a.pool == t { // if it is handed out it was before, and then it has been removed
			errs = append(errs, d.dropPooled(ctx, a))
		}
	}
	d.poolSoon() // once more, if that failed
	return errors.Join(errs...)
}

// forgetTemplate removes a template itself.
func (d *Daemon) forgetTemplate(t *tmpl) error {
	name := t.rec.Name
	d.mu.Lock()
	defer d.mu.Unlock()
	if clones := d.clonesOf(name); len(clones) > 0 {
		return refusef("template %s has clones: %s; remove them first", name, someOf(clones))
	}
	if d.templates[name] != t {
		return fmt.Errorf("template %s: %w", name, errdefs.ErrNotFound)
	}
	if t.making > 0 {
		return refusef("template %s is needed: clones are being made of it; try again when that is done", name)
	}
	if t.rec.Own {
		free, err := t.claim.Exclude()
		if err != nil {
			return err
		}
		defer free()
	}
	rec := t.rec
	rec.Half = true
	if err := d.writeTemplate(rec); err != nil && !fullDisk(err) {
		return err
	}
	delete(d.templates, name)
	return d.dropTemplate(t)
}

// someOf is a list of names, of which a long one is cut.
func someOf(names []string) string {
	const most = 15
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(names[:most], ", "), len(names)-most)
}

// clonesOf lists the apps that are clones of a template, by their numbers.
//
// The caller holds d.mu.
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

// templateImages is what the images of a template say, which never changes.
type templateImages struct {
	open    []string  // files that the processes have open
	repeats *app.Note // what random numbers clones have in common; nil if none are known
}

// knownImages is what inspect found earlier; nil if nobody has asked it.
func (t *tmpl) knownImages() *templateImages {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.images
}

// inspect looks into the images of the template, once.
func (t *tmpl) inspect(ctx context.Context, s *source) (*templateImages, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.images != nil {
		return t.images, nil
	}
	info, err := s.inspect(ctx)
	if err != nil {
		return nil, err
	}
	found := &templateImages{open: []string{}, repeats: repeats(info, cloned)}
	for _, f := range info.Files {
		if strings.HasPrefix(f.Name, "/") && !f.Removed && !f.External {
			found.open = append(found.open, f.Name)
		}
	}
	t.images = found
	return found, nil
}
