package directory

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/vem/directory/codec"
)

// Lookup returns the endpoint that has an address of a network, of either family, as it is. It
// returns an error wrapping [ErrNotFound] if nobody has it: that is said only by the directory
// that this host has seen, so it is a [*LostError] if this is another one.
func (d *Directory) Lookup(ctx context.Context, network string, a netip.Addr) (Endpoint, error) {
	e, err := d.lookup(ctx, network, a)
	if err != nil {
		return e, fmt.Errorf("look up endpoint %s of network %s: %w", a, network, err)
	}
	return e, nil
}

func (d *Directory) lookup(ctx context.Context, network string, a netip.Addr) (Endpoint, error) {
	n, err := d.Network(ctx, network)
	if err != nil {
		return Endpoint{}, err
	}
	a, ok := n.IPv4(a)
	if !ok {
		return Endpoint{}, ErrNotFound
	}
	return d.found(ctx, d.keys.endpoint(network, a))
}

// found returns the endpoint with a key. One transaction that changes nothing tells both whether
// there is one, and whether the directory is the one that this host has seen.
func (d *Directory) found(ctx context.Context, key string) (Endpoint, error) {
	seen := d.Known()
	_, err := d.store.Commit(ctx, Txn{If: []Condition{
		{Key: d.keys.of(KindMeta, ""), Revision: d.metaRevision},
		{Key: key},
	}})
	var conflict *ConflictError
	switch {
	case err == nil:
		return Endpoint{}, ErrNotFound
	case !errors.As(err, &conflict):
		return Endpoint{}, err
	case conflict.Key != key:
		return Endpoint{}, d.lost(seen, Known{Revision: conflict.Now.Revision})
	}
	d.saw(conflict.Now.Revision)
	e, err := d.endpoint(conflict.Now)
	if err != nil {
		return Endpoint{}, err
	}
	return *e, nil
}

// LookupApp returns the endpoint of an app, or an error wrapping [ErrNotFound] if there is no app
// of this name.
func (d *Directory) LookupApp(ctx context.Context, app string) (Endpoint, error) {
	e, err := d.lookupApp(ctx, app)
	if err != nil {
		return e, fmt.Errorf("look up app %s: %w", app, err)
	}
	return e, nil
}

func (d *Directory) lookupApp(ctx context.Context, app string) (Endpoint, error) {
	if err := codec.CheckName("app", app); err != nil {
		return Endpoint{}, err
	}
	var r appRecord
	named, err := d.get(ctx, d.keys.app(app), &r)
	if err != nil {
		return Endpoint{}, err
	}
	if named.Revision == 0 {
		if _, err := d.Check(ctx); err != nil {
			return Endpoint{}, err
		}
		return Endpoint{}, ErrNotFound
	}
	e, err := d.found(ctx, d.keys.endpoint(r.Network, r.Addr))
	if err == nil && e.ID != r.ID {
		err = ErrNotFound // it was released, and another has the address
	}
	return e, err
}

// endpoint returns the endpoint of an entry, nil for none.
func (d *Directory) endpoint(e Entry) (*Endpoint, error) {
	if e.Revision == 0 {
		return nil, nil
	}
	var r Endpoint
	if err := d.decode(e, &r); err != nil {
		return nil, err
	}
	r.Revision = e.Revision
	return &r, nil
}

// Endpoints returns all endpoints, in the order of networks and of what their addresses look
// like.
func (d *Directory) Endpoints(ctx context.Context) ([]Endpoint, error) {
	var list []Endpoint
	err := d.records(ctx, KindEndpoint, "", func(e Entry) error {
		r, err := d.endpoint(e)
		if err == nil {
			list = append(list, *r)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	return list, nil
}

// Verdict is what the directory says of a copy of an endpoint that a host has.
type Verdict struct {
	Standing Standing
	// Permit is that of an Owner, else the zero Permit.
	Permit Permit
	// Now is the endpoint as it is, nil if there is none any more.
	Now *Endpoint
	// Restored is the ID of the last restoration of the directory, empty if there was none. If it is
	// another one than when the directory said the last time that this host owns the endpoint, the
	// directory may have forgotten that.
	Restored string
}

// Confirm asks which of this host's copies may send: each of mine has the ID and the epoch of a
// copy, and is for this host. boot is what Permit.Allows is called with later.
//
// What it says is true when it returns, and only another host that takes the endpoint over,
// which is not possible while this one is alive, changes it.
func (s *Session) Confirm(ctx context.Context, mine []Endpoint, boot string) ([]Verdict, error) {
	if err := s.settle(ctx); err != nil {
		return nil, fmt.Errorf("confirm %d endpoints: %w", len(mine), err)
	}
	there, restored, err := s.mine(ctx, mine)
	if err != nil {
		return nil, fmt.Errorf("confirm %d endpoints: %w", len(mine), err)
	}
	list := make([]Verdict, len(mine))
	for i, e := range mine {
		e.Owner = s.host
		now, err := s.d.endpoint(there[s.d.keys.endpoint(e.Network, e.Addr)])
		if err != nil {
			return nil, fmt.Errorf("confirm endpoint %s: %w", e, err)
		}
		list[i] = Verdict{Standing: judge(now, e), Now: now, Restored: restored}
		if list[i].Standing == Owner {
			list[i].Permit = Permit{ID: e.ID, Epoch: e.Epoch, Boot: boot}
		}
	}
	return list, nil
}

// oneByOne is up to how many entries are read one by one. More are read by one list of all.
const oneByOne = 16

// mine returns the entries of endpoints, as they are while the session is this one and the directory
// was not restored once more.
func (s *Session) mine(ctx context.Context, mine []Endpoint) (there map[string]Entry, restored string, err error) {
	mark, entry, err := s.d.restored(ctx)
	if err != nil {
		return nil, "", err
	}
	there = make(map[string]Entry)
	if len(mine) > oneByOne {
		entries, rev, err := s.d.store.List(ctx, s.d.keys.of(KindEndpoint, ""))
		if err != nil {
			return nil, "", err
		}
		s.d.saw(rev)
		for _, e := range entries {
			there[e.Key] = e
		}
	} else {
		var keys []string
		for _, e := range mine {
			keys = append(keys, s.d.keys.endpoint(e.Network, e.Addr))
		}
		if there, err = s.d.read(ctx, keys); err != nil {
			return nil, "", err
		}
	}
	// The session is the host's still, and so nothing of an older one has happened since: what
	// was read is the directory's that has this session.
	_, sure, err := s.commit(ctx, Txn{If: []Condition{{Key: entry.Key, Revision: entry.Revision}}})
	var conflict *ConflictError
	if errors.As(err, &conflict) || !sure {
		return nil, "", fmt.Errorf("%w: the session was begun anew meanwhile", ErrUnavailable)
	}
	return there, mark.ID, err
}
