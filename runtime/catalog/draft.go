package catalog

import (
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// Draft is a template that is being made: it has its name, and nobody else finds it. It ends
// with Add or Drop.
type Draft struct {
	*Template
	catalog *Catalog
}

// isMadeOfIt is why a snapshot stays while a template is made of it, and as long as the
// template is there.
func isMadeOfIt(template string) store.Reason {
	return store.Reason{Why: fmt.Sprintf("template %s is made of it", template), Remedy: "remove that first"}
}

// Begin begins to make a template of a snapshot. If the name of the snapshot is "", one that
// is going to be taken for the template, and gets its name: see [Draft.Owns]. Returns an
// errdefs.ErrInvalidArgument for a bad name or bad rules, an errdefs.ErrNotImplemented for
// rules that can't be followed, an errdefs.ErrAlreadyExists if the name is taken, or an
// errdefs.ErrNotFound if the snapshot is being written or removed.
func (c *Catalog) Begin(name, of, rules string) (*Draft, error) {
	if err := snapshot.ValidateName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	t := newTemplate(record{Name: name, CreatedAt: time.Now(), Snapshot: of, Rules: rules})
	var err error
	if t.Rules, err = template.Parse([]byte(rules)); err != nil {
		return nil, fmt.Errorf("rules: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if conns := t.Rules.Connections; conns.Inbound == template.ConnectionKeep || conns.Outbound == template.ConnectionKeep {
		return nil, fmt.Errorf("rules: connections: keep: %w: a connection has one other end, which is connected to the app that was saved and not to a clone; "+
			"hibernate that app and wake it to have it back with its connections, or use reset", errdefs.ErrNotImplemented)
	}
	if err := c.reserve(name); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(c.file(name)); err == nil {
		c.end(t)
		return nil, fmt.Errorf("template %s: %w: it is half removed, or can't be read; remove %s", name, errdefs.ErrAlreadyExists, c.file(name))
	}
	if of == "" {
		// It must stay from the moment on in which it is there.
		t.claim = c.opt.Store.Expect(name, isMadeOfIt(name))
	} else if t.claim, err = c.opt.Store.Claim(of, isMadeOfIt(name)); err != nil {
		c.end(t)
		return nil, fmt.Errorf("%w: it is being written or removed", err)
	}
	return &Draft{Template: t, catalog: c}, nil
}

// reserve gives a template its name while it is made.
func (c *Catalog) reserve(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.templates[name]; ok || c.busy[name] {
		return fmt.Errorf("template %s: %w", name, errdefs.ErrAlreadyExists)
	}
	c.busy[name] = true
	return nil
}

// Owns records that the snapshot with the template's name is taken for the template, and
// goes with it. It is called when that name is taken too: what has the name before is
// somebody's.
func (d *Draft) Owns() error {
	d.Snapshot, d.Own = d.Name, true
	return d.catalog.write(d.Template, record{Half: true})
}

// Commit makes the record whole: a new daemon has the template from now on. If it fails the
// caller drops the draft.
func (d *Draft) Commit() error { return d.catalog.write(d.Template, record{}) }

// Add puts the template, whose record is whole, into the catalog.
func (d *Draft) Add() *Template {
	c, t := d.catalog, d.Template
	c.mu.Lock()
	defer c.mu.Unlock()
	c.templates[t.Name] = t
	delete(c.busy, t.Name)
	return t
}

// Drop removes what there is of a draft that was not added, and frees its name.
func (d *Draft) Drop() error {
	defer d.catalog.end(d.Template)
	return d.catalog.drop(d.Template)
}
