package installation

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/conflict"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/registrar"
)

// compare finds what this host has made alone and that can't be so in the installation which it is
// about to join: it returns a [*conflict.Error] that has all of it, or the networks that this host
// is to keep for itself.
func (i *Installation) compare(ctx context.Context, d *directory.Directory, self directory.Host, how membership.OnConflict) (private []string, err error) {
	alone := conflict.Alone{Host: self}
	networks := map[string]bool{registrar.DefaultNetwork: true}
	for _, e := range i.opt.Local.Wanted() {
		networks[e.Network] = true
		alone.Endpoints = append(alone.Endpoints, directory.Endpoint{Network: e.Network, Addr: e.Addr4, App: e.App})
	}
	slices.SortFunc(alone.Endpoints, func(a, b directory.Endpoint) int { return a.Addr.Compare(b.Addr) })
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		space, err := i.opt.Local.Space(name)
		if err != nil {
			return nil, err
		}
		alone.Networks = append(alone.Networks, directory.Network{Name: name, Prefix4: space.Prefix4, Prefix6: space.Prefix6})
	}
	list, err := conflict.Find(ctx, d, alone)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	private, rest := conflict.Private(list)
	if how == membership.KeepPrivate && len(rest) == 0 {
		return private, nil
	}
	return nil, &conflict.Error{List: list}
}

// IsPrivate tells whether a network of this host is shared with no other host.
func (i *Installation) IsPrivate(network string) bool {
	return slices.Contains(i.Private(), network)
}

// shared are the networks that other hosts share.
type shared struct {
	Networks
	private func(network string) bool
}

func (s shared) Present() []Endpoint { return s.others(s.Networks.Present()) }
func (s shared) Wanted() []Endpoint  { return s.others(s.Networks.Wanted()) }

func (s shared) others(all []Endpoint) []Endpoint {
	return slices.DeleteFunc(all, func(e Endpoint) bool { return s.private(e.Network) })
}

func (s shared) Find(network string, a netip.Addr) (Endpoint, bool) {
	if s.private(network) {
		return Endpoint{}, false
	}
	return s.Networks.Find(network, a)
}
