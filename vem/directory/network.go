package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory/codec"
	"github.com/snapctl/snapctl/vem/directory/plan"
)

// errAgain is that something was changed by others between reading and writing.
var errAgain = errors.New("changed meanwhile")

// networksRecord changes together with any network: so two networks that overlap are not made at
// the same time.
type networksRecord struct {
	Last string `json:"last"`
}

func (*networksRecord) Validate(string) error { return nil }

// PutNetwork makes a network, unless it is there with these prefixes, and returns it as it is.
// It returns a [*NetworkError] if its prefixes are others, or overlap those of another network.
// A network stays: blocks and endpoints are in it.
func (s *Session) PutNetwork(ctx context.Context, name string, space address.Space, now time.Time) (Network, error) {
	n := Network{Name: name, Prefix4: space.Prefix4, Prefix6: space.Prefix6, MadeBy: s.host, MadeAt: now.UTC().Truncate(time.Second)}
	n.BlockBits = plan.BlockBits(space.Prefix4)
	err := n.Validate(name)
	for err == nil {
		var there *Network
		if there, err = s.tryNetwork(ctx, n); err == nil {
			return *there, nil
		}
		if errors.Is(err, errAgain) {
			err = nil
		}
	}
	return n, fmt.Errorf("make network %s: %w", name, err)
}

// tryNetwork makes a network if none is made meanwhile.
func (s *Session) tryNetwork(ctx context.Context, n Network) (*Network, error) {
	all, key := s.d.keys.of(KindNetworks, ""), s.d.keys.network(n.Name)
	before, err := s.d.read(ctx, []string{all})
	if err != nil {
		return nil, err
	}
	list, err := s.d.Networks(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		switch {
		case n.Meets(m):
			return nil, &NetworkError{Wanted: n, There: m}
		case m.Name == n.Name:
			return &m, nil
		}
	}
	rev, err := s.create(ctx, []string{all, key}, before, func(now map[string]Entry) (Txn, error) {
		if now[all].Revision != before[all].Revision || now[key].Revision != 0 {
			return Txn{}, errAgain
		}
		return s.d.puts(map[string]codec.Record{key: &n, all: &networksRecord{Last: n.Name}})
	})
	n.Revision = rev
	return &n, err
}

// puts is a transaction that puts records.
func (d *Directory) puts(records map[string]codec.Record) (Txn, error) {
	var t Txn
	for key, r := range records {
		one, err := d.put(key, r)
		if err != nil {
			return t, err
		}
		t.Puts = append(t.Puts, one.Puts...)
	}
	return t, nil
}

// Networks returns all networks, in the order of names.
func (d *Directory) Networks(ctx context.Context) ([]Network, error) {
	var list []Network
	err := d.records(ctx, KindNetwork, "", func(e Entry) error {
		var n Network
		err := d.decode(e, &n)
		n.Revision = e.Revision
		list = append(list, n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	return list, nil
}

// Network returns a network, or an error wrapping [ErrNotFound]. It is asked of the store once:
// a network does not change.
func (d *Directory) Network(ctx context.Context, network string) (Network, error) {
	if n, ok := d.knownNetwork(network); ok {
		return n, nil
	}
	var n Network
	err := codec.CheckName("network", network)
	var e Entry
	if err == nil {
		e, err = d.get(ctx, d.keys.network(network), &n)
	}
	if err == nil && e.Revision == 0 {
		if _, err = d.Check(ctx); err == nil {
			err = ErrNotFound
		}
	}
	if err != nil {
		return n, fmt.Errorf("look up network %s: %w", network, err)
	}
	n.Revision = e.Revision
	d.knowNetwork(n)
	return n, nil
}

func (d *Directory) knownNetwork(network string) (Network, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.networks[network]
	return n, ok
}

func (d *Directory) knowNetwork(n Network) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.networks == nil {
		d.networks = make(map[string]Network)
	}
	d.networks[n.Name] = n
}
