package clone

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// ChooseNames chooses the names and numbers of clones. Until free is called no other
// request gets any of them, and the template is not removed.
func (c *Clones) ChooseNames(t *catalog.Template, r *Request) (free func(), err error) {
	if err := c.room(t, r.Count); err != nil {
		return nil, err
	}
	numbers, freeNumbers, err := c.Catalog.Use(t, r.Count, catalog.Number{First: r.Start, Least: r.Least}, func() map[int]string { return c.numbersOf(t) })
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			freeNumbers()
		}
	}()
	if len(r.Names) == 0 {
		if r.Names, err = expand(t, r.Pattern, numbers[0], r.Count, c.Apps.Taken); err != nil {
			return nil, err
		}
	}
	chosen := make(map[string]bool, len(r.Names))
	for _, name := range r.Names {
		if err := snapshot.ValidateName(name); err != nil {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if chosen[name] {
			return nil, fmt.Errorf("%w: two clones called %s", errdefs.ErrInvalidArgument, name)
		}
		chosen[name] = true
	}
	freeNames, err := c.Apps.Reserve(r.Names...)
	if err != nil {
		return nil, err
	}
	r.numbers = numbers
	return func() {
		freeNames()
		freeNumbers()
	}, nil
}

// NextNumber is the number after the highest one of the clones that there are of a template.
func (c *Clones) NextNumber(t *catalog.Template) int {
	next := 1
	for n := range c.numbersOf(t) {
		next = max(next, n+1)
	}
	return next
}

// numbersOf are the numbers of the clones that there are of a template, by their names.
func (c *Clones) numbersOf(t *catalog.Template) map[int]string {
	used := make(map[int]string)
	for _, a := range c.Apps.List() {
		if rec, _ := a.Read(); rec.Template == t.Name {
			used[rec.Number] = rec.Name
		}
	}
	return used
}

// roomFrom is the number of clones from which it is worth to look before anything is
// made whether there are addresses for all of them.
const roomFrom = 100

// room refuses more clones of a template than its network has addresses for. Those of pools
// are given up to whoever asks for them.
func (c *Clones) room(t *catalog.Template, count int) error {
	if count < roomFrom {
		return nil
	}
	_, m, err := c.Store.Find(t.Snapshot)
	if err != nil {
		return err
	}
	free, prefix, err := c.Addresses(m.Network)
	if err != nil {
		return err
	}
	if count > free {
		return app.Refusef("%d clones are too many: network %s (%s) has %d free addresses", count, m.Network, prefix, free)
	}
	return nil
}

// expand makes names by a pattern.
func expand(t *catalog.Template, pattern string, next, count int, taken func(string) bool) ([]string, error) {
	if pattern == "" {
		pattern = t.Name + "-{n}"
	}
	p, err := template.ParseNamePattern(pattern)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	names, err := p.Expand(next, count, taken)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return names, nil
}
