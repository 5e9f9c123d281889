package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

const templateVersion = 1

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
	// Half is set while the template is made or removed: what a daemon that died
	// left of it goes, and the snapshot with it if it is the template's own.
	Half bool `json:"half,omitempty"`
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
			// journal.Write was interrupted.
			if err := os.Remove(filepath.Join(d.templatesDir(), e.Name())); err != nil {
				return fmt.Errorf("remove what is left of a template: %w", err)
			}
			continue
		}
		if err := d.loadTemplate(name); err != nil {
			d.log.ErrorContext(ctx, "load template", slog.String("template", name), slog.Any("error", err))
		}
	}
	return nil
}

func (d *Daemon) loadTemplate(name string) error {
	t := &tmpl{numbers: make(map[int]bool)}
	err := journal.Read(d.templateFile(name), &t.rec)
	if err != nil {
		return err
	}
	switch {
	case t.rec.Version != templateVersion:
		return fmt.Errorf("version %d, this snapctld reads %d", t.rec.Version, templateVersion)
	case t.rec.Name != name, snapshot.ValidateName(name) != nil:
		return fmt.Errorf("it is of template %q", t.rec.Name)
	case snapshot.ValidateName(t.rec.Snapshot) != nil:
		return fmt.Errorf("its snapshot is %q", t.rec.Snapshot)
	}
	if t.rec.Half {
		t.claim = d.store.Expect(t.rec.Snapshot, isMadeOfIt(name))
		return d.dropTemplate(t)
	}
	if t.rules, err = template.Parse([]byte(t.rec.Rules)); err != nil {
		return err
	}
	t.claim = d.store.Expect(t.rec.Snapshot, isMadeOfIt(name))
	d.templates[name] = t
	return nil
}

// dropTemplate removes what is on the disk of a template, its record last, and gives up its claim.
func (d *Daemon) dropTemplate(t *tmpl) error {
	defer t.claim.Release()
	if t.rec.Own {
		if err := t.claim.Remove(); err != nil {
			return err
		}
	}
	if err := os.Remove(d.templateFile(t.rec.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove template: %w", err)
	}
	return nil
}

// writeTemplate persists a template.
func (d *Daemon) writeTemplate(rec templateRecord) error {
	rec.Version = templateVersion
	return journal.Write(d.templateFile(rec.Name), rec, journal.Forever)
}
