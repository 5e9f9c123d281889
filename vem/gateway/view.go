package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// View is what people see of a host's part in the traffic with others than endpoints.
type View struct {
	Settings

	Host     string
	Networks []Network
	Ports    []Status
	Others   []Other
	// Notes tell what keeps machines that keep their addresses from apps of other hosts, or of this one.
	Notes []string
}

// Network is a network that the host itself is in.
type Network struct {
	Name             string
	Prefix4, Prefix6 netip.Prefix // Prefix6 may be zero
	Addr4, Addr6     netip.Addr   // of the host
}

// Other is a gateway on another host.
type Other struct {
	Host      string
	Advertise []netip.Prefix
	Alive     bool // it was seen a moment ago
}

// View returns what this host forwards.
func (f *Forwarder) View() (*View, error) {
	s := f.file.State()
	v := &View{Settings: s.Settings, Host: f.opt.Self, Ports: f.ports(), Others: s.others()}
	for _, name := range slices.Sorted(maps.Keys(s.Addresses)) {
		space, err := f.opt.VEM.Space(name)
		if err != nil {
			return nil, fmt.Errorf("show what this host forwards: %w", err)
		}
		a := s.Addresses[name]
		v.Networks = append(v.Networks, Network{Name: name, Prefix4: space.Prefix4, Prefix6: space.Prefix6, Addr4: a, Addr6: space.Pair(a)})
	}
	return v, nil
}

// Obstacles are the prefixes of networks, and what is known of the underlay of other hosts: no machines
// behind a gateway have such addresses.
func (f *Forwarder) Obstacles() (list []Obstacle) {
	for name := range f.file.State().Addresses {
		s, err := f.opt.VEM.Space(name)
		if err != nil {
			continue
		}
		for _, p := range []netip.Prefix{s.Prefix4, s.Prefix6} {
			if p.IsValid() {
				list = append(list, Obstacle{Prefix: p, What: "network " + name})
			}
		}
	}
	known := f.opt.Known()
	if known == nil {
		return list
	}
	for _, n := range known.Networks() {
		for _, p := range []netip.Prefix{n.Prefix4, n.Prefix6} {
			if o := (Obstacle{Prefix: p, What: "network " + n.Name}); p.IsValid() && !slices.Contains(list, o) {
				list = append(list, o)
			}
		}
	}
	for _, h := range known.Hosts() {
		for _, u := range h.Underlays {
			if !h.Removed {
				list = append(list, Obstacle{Prefix: netip.PrefixFrom(u.Addr, u.Addr.BitLen()), What: "the underlay of host " + h.Name})
			}
		}
	}
	return list
}
