// Package catalog has the templates of a daemon: a snapshot each, with rules by which clones
// are made of it.
//
// A template is made as a [Draft], which has the template's name and a claim on the snapshot
// from the beginning, and is in the catalog once its record is whole. As long as somebody
// uses the template, or it has clones, it can't be removed:
//
//	Begin --> Draft -- Commit, Add --> Template -- Remove --> nothing
//	            \---- Drop --> nothing
//
// Its record is a file with half set while the template is made or removed. What a daemon
// that died left of such a template goes when the next one opens the catalog, and the
// snapshot with it if that was taken for the template.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
)

// Options configures a catalog.
type Options struct {
	Dir   string       // of the templates' records; it is made
	Store *store.Store // of the snapshots that they are made of
	Log   *slog.Logger // gets what can't be read
}

// Catalog has the templates by their names.
type Catalog struct {
	opt Options

	mu        sync.Mutex // guards what follows, and the changing part of each template
	templates map[string]*Template
	busy      map[string]bool // names of templates that are being made or removed
}

// Open reads all templates. One that can't be read is logged, and stays on the disk.
func Open(ctx context.Context, opt Options) (*Catalog, error) {
	c := &Catalog{opt: opt, templates: make(map[string]*Template), busy: make(map[string]bool)}
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	entries, err := os.ReadDir(opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			// journal.Write was interrupted.
			if err := os.Remove(filepath.Join(opt.Dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove what is left of a template: %w", err)
			}
			continue
		}
		if err := c.load(name); err != nil {
			opt.Log.ErrorContext(ctx, "load template", slog.String("template", name), slog.Any("error", err))
		}
	}
	return c, nil
}

// Get returns the template of a name. Returns an errdefs.ErrNotFound if there is none, or
// an errdefs.ErrInvalidArgument if it is no name.
func (c *Catalog) Get(name string) (*Template, error) {
	if err := snapshot.ValidateName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.templates[name]; ok {
		return t, nil
	}
	return nil, notFound(name)
}

func notFound(name string) error { return fmt.Errorf("template %s: %w", name, errdefs.ErrNotFound) }

// List returns all templates, ordered by name.
func (c *Catalog) List() []*Template {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Collect(maps.Values(c.templates))
	slices.SortFunc(all, func(a, b *Template) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Has tells whether a template is still there: another one of its name is not the same.
func (c *Catalog) Has(t *Template) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.templates[t.Name] == t
}

// Ready is how many clones of a template are to stand ready; 0 if it was removed.
func (c *Catalog) Ready(t *Template) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.templates[t.Name] != t {
		return 0
	}
	return t.ready
}

// SetReady sets how many clones of a template are to stand ready. If it fails nothing has
// changed.
func (c *Catalog) SetReady(ctx context.Context, t *Template, count int) error {
	release, err := t.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !c.Has(t) {
		return notFound(t.Name)
	}
	if err := c.write(t, record{Pool: count}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.ready = count
	return nil
}

// InUseError is a template that can't be removed, because it has clones or some are being
// made. It is an errdefs.ErrFailedPrecondition.
type InUseError struct {
	Name string
	Why  string // goes on from the name
}

func (e *InUseError) Error() string { return fmt.Sprintf("template %s %s", e.Name, e.Why) }

// Is makes the error an errdefs.ErrFailedPrecondition.
func (e *InUseError) Is(target error) bool { return target == errdefs.ErrFailedPrecondition }

// Remove removes a template, and its snapshot if that was taken for it. clones lists the
// clones of the template; it is called more than once. Returns an [InUseError] if there are
// any, or somebody uses the template, and what [store.Claim.Exclude] does if somebody uses
// the snapshot.
//
// From the moment on in which it is on record that the template is going it is not in the
// catalog. If it fails after that, the next daemon removes the rest.
func (c *Catalog) Remove(ctx context.Context, t *Template, clones func() []string) (err error) {
	release, err := t.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := refuse(t, clones()); err != nil {
		return err
	}
	if err := c.begin(t); err != nil {
		return err
	}
	defer c.end(t)
	if err := refuse(t, clones()); err != nil { // of a request that has just ended
		return err
	}
	if t.Own {
		undo, err := t.claim.Exclude()
		if err != nil {
			return err
		}
		defer undo()
	}
	// A full disk is no reason to keep what fills it.
	if err := c.write(t, record{Pool: c.Ready(t), Half: true}); err != nil && !fullDisk(err) {
		return err
	}
	c.mu.Lock()
	delete(c.templates, t.Name)
	c.mu.Unlock()
	return c.drop(t)
}

// refuse returns an error if a template has clones.
func refuse(t *Template, clones []string) error {
	if len(clones) == 0 {
		return nil
	}
	const most = 15
	list := strings.Join(clones, ", ")
	if len(clones) > most {
		list = fmt.Sprintf("%s and %d others", strings.Join(clones[:most], ", "), len(clones)-most)
	}
	return &InUseError{Name: t.Name, Why: fmt.Sprintf("has clones: %s; remove them first", list)}
}

// begin keeps others from using a template that is to be removed, until end.
func (c *Catalog) begin(t *Template) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.templates[t.Name] != t:
		return notFound(t.Name)
	case t.users > 0:
		return &InUseError{Name: t.Name, Why: "is needed: clones are being made of it; try again when that is done"}
	}
	c.busy[t.Name] = true
	return nil
}

func (c *Catalog) end(t *Template) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, t.Name)
}

// drop removes what is on the disk of a template, its record last, and gives up the claim.
func (c *Catalog) drop(t *Template) error {
	defer t.claim.Release()
	if t.Own {
		if err := t.claim.Remove(); err != nil {
			return err
		}
	}
	if err := os.Remove(c.file(t.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove template: %w", err)
	}
	return nil
}
