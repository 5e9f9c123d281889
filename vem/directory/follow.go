package directory

import (
	"context"
	"fmt"
)

// Record is a record of the directory, as it was put or deleted.
type Record struct {
	Kind     Kind
	Name     string
	Revision int64
	// Value is an *Endpoint, *Host, *Network or *Block, or nil: for a record of another kind,
	// one that was deleted, and one that this version of snapctl can't read.
	Value   any
	Deleted bool
}

// Follow returns all records as they are at one revision, and next, which waits for what is put
// and deleted after that, at one revision each time. It returns a [*LostError], at once or by
// next, if the directory is not the one that this host has seen, and next an error wrapping
// [ErrCompacted] if it has to be called anew. While the directory can't be reached, next waits.
func (d *Directory) Follow(ctx context.Context) (records []Record, revision int64, next func() ([]Record, error), err error) {
	seen := d.Known()
	entries, rev, err := d.store.List(ctx, string(d.keys))
	if err == nil {
		_, _, err = d.vouch(seen, entries, rev)
	}
	if err != nil {
		return nil, 0, nil, fmt.Errorf("read the directory: %w", err)
	}
	d.saw(rev)
	for _, e := range entries {
		if r, ok := d.record(Change{Entry: e}); ok {
			records = append(records, r)
		}
	}
	watch := d.store.Watch(ctx, string(d.keys), rev)
	return records, rev, func() ([]Record, error) { return d.changes(watch) }, nil
}

// changes returns the next changes of a watch as records.
func (d *Directory) changes(watch func() ([]Change, error)) ([]Record, error) {
	changes, err := watch()
	if err != nil {
		return nil, fmt.Errorf("follow the directory: %w", err)
	}
	var list []Record
	for _, c := range changes {
		r, ok := d.record(c)
		if !ok {
			continue
		}
		if r.Kind == KindMeta && r.Deleted {
			return nil, d.lost(d.Known(), Known{})
		}
		d.saw(c.Revision)
		list = append(list, r)
	}
	return list, nil
}

// record reads what an entry says. It tells false for what is not of this version of snapctl.
func (d *Directory) record(c Change) (r Record, ok bool) {
	r = Record{Revision: c.Revision, Deleted: c.Deleted}
	if r.Kind, r.Name, ok = d.keys.parse(c.Key); !ok || c.Deleted {
		return r, ok
	}
	var err error
	switch r.Kind {
	case KindEndpoint:
		e := Endpoint{Revision: c.Revision}
		r.Value, err = &e, d.decode(c.Entry, &e)
	case KindHost:
		h := Host{Revision: c.Revision}
		r.Value, err = &h, d.decode(c.Entry, &h)
	case KindNetwork:
		n := Network{Revision: c.Revision}
		r.Value, err = &n, d.decode(c.Entry, &n)
	case KindBlock:
		b := Block{Revision: c.Revision}
		r.Value, err = &b, d.decode(c.Entry, &b)
	case KindMeta, KindSession, KindMade, KindSeen, KindNetworks, KindApp, KindRestored:
	}
	if err != nil {
		r.Value = nil
	}
	return r, true
}
