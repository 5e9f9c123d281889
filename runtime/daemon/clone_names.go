package daemon

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// nameClones chooses the names and numbers of clones. Until free is called no other
// request gets any of them, and the template is not removed.
func (d *Daemon) nameClones(t *tmpl, r *cloneRequest) (free func(), err error) {
	if r.count >= roomFrom {
		_, m, err := d.store.Find(t.rec.Snapshot)
		if err != nil {
			return nil, err
		}
		if err := d.room(m.Network, r.count); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.templates[t.rec.Name] != t {
		return nil, fmt.Errorf("template %s: %w", t.rec.Name, errdefs.ErrNotFound)
	}
	used := make(map[int]string)
	next := 1
	for _, a := range d.apps.List() {
		if rec, _ := a.Read(); rec.Template == t.rec.Name {
			used[rec.Number] = rec.Name
			next = max(next, rec.Number+1)
		}
	}
	for n := range t.numbers {
		next = max(next, n+1)
	}
	if r.start > 0 {
		next = r.start
	}
	if len(r.names) == 0 {
		if r.names, err = expand(t, r.pattern, next, r.count, d.apps.Taken); err != nil {
			return nil, err
		}
	}
	chosen := make(map[string]bool, len(r.names))
	for i, name := range r.names {
		if err := snapshot.ValidateName(name); err != nil {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if chosen[name] {
			return nil, fmt.Errorf("%w: two clones called %s", errdefs.ErrInvalidArgument, name)
		}
		n := next + i
		if other, ok := used[n]; ok || t.numbers[n] {
			return nil, fmt.Errorf("clone %d of template %s: %w: %s; choose another number to start from", n, t.rec.Name, errdefs.ErrAlreadyExists, other)
		}
		chosen[name] = true
		r.numbers = append(r.numbers, n)
	}
	freeNames, err := d.apps.Reserve(r.names...)
	if err != nil {
		return nil, err
	}
	for _, n := range r.numbers {
		t.numbers[n] = true
	}
	t.making++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		t.making--
		freeNames()
		for _, n := range r.numbers {
			delete(t.numbers, n)
		}
	}, nil
}

// roomFrom is the number of clones from which it is worth to look before anything is
// made whether there are addresses for all of them.
const roomFrom = 100

// room refuses more apps than a network has addresses for. Those of pools are given
// up to whoever asks for them.
func (d *Daemon) room(network string, count int) error {
	free, prefix, err := d.vem.Addresses(network)
	if err != nil {
		return err
	}
	if count > free {
		return refusef("%d clones are too many: network %s (%s) has %d free addresses", count, network, prefix, free)
	}
	return nil
}

// expand makes names by a pattern.
func expand(t *tmpl, pattern string, next, count int, taken func(string) bool) ([]string, error) {
	if pattern == "" {
		pattern = t.rec.Name + "-{n}"
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
