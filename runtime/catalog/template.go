package catalog

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// Template is one template. Its exported fields do not change.
type Template struct {
	Name      string
	CreatedAt time.Time
	Snapshot  string // the name of what it is made of
	// Own tells that the snapshot was taken for the template and goes with it.
	Own       bool
	RulesText string // as they were given, in YAML
	Rules     *template.Rules

	claim *store.Claim // of the snapshot

	turn    chan struct{} // holds one token while the record or the images are read or written
	images  atomic.Pointer[template.Images]
	ready   int          // how many clones are to stand ready; the catalog's mu guards this and what follows
	users   int          // see Use
	numbers map[int]bool // of clones that are being made
	freed   int          // how often numbers were given back
}

func newTemplate(r record) *Template {
	return &Template{
		Name: r.Name, CreatedAt: r.CreatedAt, Snapshot: r.Snapshot, Own: r.Own, RulesText: r.Rules, ready: r.Pool,
		turn: make(chan struct{}, 1), numbers: make(map[int]bool),
	}
}

// take waits until nobody reads or writes files of the template.
func (t *Template) take(ctx context.Context) (release func(), err error) {
	select {
	case t.turn <- struct{}{}:
		return func() { <-t.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("template %s: %w", t.Name, ctx.Err())
	}
}

// Number says which number the first of several clones has.
type Number struct {
	First int // 0: it is chosen
	Least int // it is no lower, if it is chosen
}

// Use keeps a template from being removed, and count numbers for clones that are going to
// be made of it, until free is called, once. The first number is from.First, or if that is 0 the
// one after the highest that is used, which is no lower than from.Least.
//
// used tells the numbers of the clones that there are, by their names. It is called without
// a lock, and again if numbers were given back meanwhile: what was made by then has them.
//
// Returns an errdefs.ErrNotFound if the template was removed, or is being removed, or an
// errdefs.ErrAlreadyExists if a number is used.
func (c *Catalog) Use(t *Template, count int, from Number, used func() map[int]string) (numbers []int, free func(), err error) {
	for {
		freed := c.countFreed(t)
		if numbers, err = c.tryUse(t, count, from, used(), freed); err != nil {
			return nil, nil, err
		}
		if numbers != nil {
			return numbers, func() { c.free(t, numbers) }, nil
		}
	}
}

func (c *Catalog) countFreed(t *Template) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.freed
}

// tryUse chooses numbers, or returns none if used may be out of date.
func (c *Catalog) tryUse(t *Template, count int, from Number, used map[int]string, freed int) ([]int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.templates[t.Name] != t || c.busy[t.Name] {
		return nil, notFound(t.Name)
	}
	if t.freed != freed {
		return nil, nil
	}
	start := from.First
	if start == 0 {
		start = max(1, from.Least)
		for n := range used {
			start = max(start, n+1)
		}
		for n := range t.numbers {
			start = max(start, n+1)
		}
	}
	numbers := make([]int, count)
	for i := range numbers {
		n := start + i
		if other, ok := used[n]; ok || t.numbers[n] {
			return nil, fmt.Errorf("clone %d of template %s: %w: %s; choose another number to start from", n, t.Name, errdefs.ErrAlreadyExists, other)
		}
		numbers[i] = n
	}
	for _, n := range numbers {
		t.numbers[n] = true
	}
	t.users++
	return numbers, nil
}

func (c *Catalog) free(t *Template, numbers []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range numbers {
		delete(t.numbers, n)
	}
	t.users--
	t.freed++
}

// Known is what Inspect has found, or nil.
func (t *Template) Known() *template.Images { return t.images.Load() }

// Inspect looks into the images of the template with look, once.
func (t *Template) Inspect(ctx context.Context, look func(context.Context) (*inspect.Info, error)) (*template.Images, error) {
	release, err := t.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if known := t.Known(); known != nil {
		return known, nil
	}
	info, err := look(ctx)
	if err != nil {
		return nil, err
	}
	found := template.ReadImages(info)
	t.images.Store(found)
	return found, nil
}
