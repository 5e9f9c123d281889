package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/template"
)

// templateRecord is what is kept of a template on the disk: a snapshot, and rules.
type templateRecord struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	Snapshot  string    `json:"snapshot"`
	// Own tells that the snapshot was taken for the template and goes with it.
	Own   bool   `json:"own,omitempty"`
	Rules string `json:"rules_yaml,omitempty"`
	Pool  int    `json:"pool_size,omitempty"`
}

// tmpl is one template of this daemon.
type tmpl struct {
	rec   templateRecord // changed with d.mu held
	rules *template.Rules

	making int // clones that are being made; d.mu guards it

	mu      sync.Mutex
	poolErr error    // why the pool could not be filled
	open    []string // files that the processes of the snapshot have open; nil before the first clone
}

func (d *Daemon) templatesDir() string { return filepath.Join(d.opt.StateDir, "templates") }

func (d *Daemon) templateFile(name string) string {
	return filepath.Join(d.templatesDir(), name+".json")
}

// loadTemplates reads all templates. One that can't be read is logged and left.
func (d *Daemon) loadTemplates(ctx context.Context) error {
	if err := os.MkdirAll(d.templatesDir(), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	entries, err := os.ReadDir(d.templatesDir())
	if err != nil {
		return fmt.Errorf("list templates: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue // replaceFile was interrupted
		}
		if err := d.loadTemplate(name); err != nil {
			d.log.ErrorContext(ctx, "load template", slog.String("template", name), slog.Any("error", err))
		}
	}
	return nil
}

func (d *Daemon) loadTemplate(name string) error {
	b, err := os.ReadFile(d.templateFile(name))
	if err != nil {
		return err
	}
	t := &tmpl{}
	if err := json.Unmarshal(b, &t.rec); err != nil {
		return err
	}
	if t.rec.Name != name {
		return fmt.Errorf("it is of template %q", t.rec.Name)
	}
	if t.rules, err = template.Parse([]byte(t.rec.Rules)); err != nil {
		return err
	}
	d.templates[name] = t
	return nil
}

// write persists a template.
func (d *Daemon) writeTemplate(rec templateRecord) error {
	rec.Version = recordVersion
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode template %s: %w", rec.Name, err)
	}
	return replaceFile(d.templateFile(rec.Name), b, forever)
}

// templateRequest says what createTemplate makes, of an app or of a snapshot.
type templateRequest struct {
	name, snapshot, rules string
	app                   *app
	tell                  func(string)
}

// createTemplate makes a template. If it fails nothing is left of it.
func (d *Daemon) createTemplate(ctx context.Context, req templateRequest) (_ *tmpl, _ *outcome, err error) {
	if err := snapshot.ValidateName(req.name); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	t := &tmpl{rec: templateRecord{Name: req.name, CreatedAt: time.Now(), Snapshot: req.snapshot, Rules: req.rules}}
	if t.rules, err = template.Parse([]byte(req.rules)); err != nil {
		return nil, nil, fmt.Errorf("rules: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if err := t.refuse(); err != nil {
		return nil, nil, err
	}
	if _, err := d.findTemplate(req.name); err == nil {
		return nil, nil, fmt.Errorf("template %s: %w", req.name, errdefs.ErrAlreadyExists)
	}
	out := &outcome{}
	if req.app != nil {
		t.rec.Snapshot, t.rec.Own = req.name, true
		if _, out, err = d.takeSnapshot(ctx, req.app, snapshotRequest{name: req.name, tell: req.tell}); err != nil {
			return nil, nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, d.snapshotDir(req.name).Remove())
				d.sweepSoon()
			}
		}()
	}
	clock := newSteps(req.tell)
	clock.begin("check snapshot")
	s, err := d.openSnapshot(ctx, t.rec.Snapshot, snapshot.ByDigest)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	if !s.manifest.WithStorage {
		return nil, nil, fmt.Errorf("snapshot %s: %w: it has no files", t.rec.Snapshot, errdefs.ErrFailedPrecondition)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.templates[req.name]; ok {
		return nil, nil, fmt.Errorf("template %s: %w", req.name, errdefs.ErrAlreadyExists)
	}
	if err := d.writeTemplate(t.rec); err != nil {
		return nil, nil, err
	}
	d.templates[req.name] = t
	return t, out, nil
}

// refuse refuses rules that this daemon can't follow.
func (t *tmpl) refuse() error {
	for _, policy := range []template.ConnectionPolicy{t.rules.Connections.Inbound, t.rules.Connections.Outbound, t.rules.Connections.Internal} {
		if policy != template.ConnectionDefault && policy != template.ConnectionReset {
			return fmt.Errorf("rules: connections: %s: %w: a snapshot has no connections, so clones see theirs reset; use reset", policy, errdefs.ErrNotImplemented)
		}
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

// removeTemplate removes a template that has no clones.
func (d *Daemon) removeTemplate(name string) error {
	t, err := d.findTemplate(name)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if clones := d.clonesOf(name); len(clones) > 0 {
		return fmt.Errorf("template %s: %w: it has clones: %s; remove them first", name, errdefs.ErrFailedPrecondition, strings.Join(clones, ", "))
	}
	if t.making > 0 {
		return fmt.Errorf("template %s: %w: clones are being made of it", name, errdefs.ErrFailedPrecondition)
	}
	if err := os.Remove(d.templateFile(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove template: %w", err)
	}
	delete(d.templates, name)
	defer d.poolSoon()
	if !t.rec.Own {
		return nil
	}
	defer d.sweepSoon()
	return d.snapshotDir(t.rec.Snapshot).Remove()
}

// clonesOf lists the apps that are clones of a template.
//
// The caller holds d.mu.
func (d *Daemon) clonesOf(name string) []string {
	var clones []string
	for _, a := range d.apps {
		if rec, _ := a.read(); rec.Template == name {
			clones = append(clones, rec.Name)
		}
	}
	slices.Sort(clones)
	return clones
}

// usedBy names the template that a snapshot is kept for, or "".
func (d *Daemon) usedBy(snapshotName string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.templates {
		if t.rec.Snapshot == snapshotName {
			return t.rec.Name
		}
	}
	return ""
}

// openFiles lists the files that the processes of the template have open.
func (t *tmpl) openFiles(ctx context.Context, s *source) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open != nil {
		return t.open, nil
	}
	info, err := image.Inspect(ctx, s.dir.Images())
	if err != nil {
		return nil, err
	}
	t.open = []string{}
	for _, f := range info.Files {
		if strings.HasPrefix(f.Name, "/") && !f.Removed && !f.External {
			t.open = append(t.open, f.Name)
		}
	}
	return t.open, nil
}
