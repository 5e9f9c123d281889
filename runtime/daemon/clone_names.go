package daemon

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// nameClones chooses the names and numbers of clones. Until free is called no other
// request gets any of them, and the template is not removed.
func (d *Daemon) nameClones(t *catalog.Template, r *cloneRequest) (free func(), err error) {
	if err := d.room(t, r.count); err != nil {
		return nil, err
	}
	numbers, freeNumbers, err := d.catalog.Use(t, r.count, r.start, func() map[int]string { return d.numbersOf(t) })
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			freeNumbers()
		}
	}()
	if len(r.names) == 0 {
		if r.names, err = expand(t, r.pattern, numbers[0], r.count, d.apps.Taken); err != nil {
			return nil, err
		}
	}
	chosen := make(map[string]bool, len(r.names))
	for _, name := range r.names {
		if err := snapshot.ValidateName(name); err != nil {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if chosen[name] {
			return nil, fmt.Errorf("%w: two clones called %s", errdefs.ErrInvalidArgument, name)
		}
		chosen[name] = true
	}
	freeNames, err := d.apps.Reserve(r.names...)
	if err != nil {
		return nil, err
	}
	r.numbers = numbers
	return func() {
		freeNames()
		freeNumbers()
	}, nil
}

// numbersOf are the numbers of the clones that there are of a template, by their names.
func (d *Daemon) numbersOf(t *catalog.Template) map[int]string {
	used := make(map[int]string)
	for _, a := range d.apps.List() {
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
func (d *Daemon) room(t *catalog.Template, count int) error {
	if count < roomFrom {
		return nil
	}
	_, m, err := d.store.Find(t.Snapshot)
	if err != nil {
		return err
	}
	free, prefix, err := d.vem.Addresses(m.Network)
	if err != nil {
		return err
	}
	if count > free {
		return refusef("%d clones are too many: network %s (%s) has %d free addresses", count, m.Network, prefix, free)
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
