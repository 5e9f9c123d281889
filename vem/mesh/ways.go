package mesh

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/probe"
)

// maxWays bounds how many ways to a host are probed: the best ones.
const maxWays = 32

// ProbePort is what the UDP port of probes is above the control channel's: the same port over UDP
// is that of VXLAN.
const ProbePort = 1

// Way is a way to another host, for people.
type Way struct {
	probe.Way

	Device string // of this host
	Used   bool   // a channel takes it
}

// Ways are those to a host, the best first: none if there is no channel to it, since then nothing
// is probed. Between addresses of two links that nothing joins there is none.
func (m *Mesh) Ways(host string) (list []Way) {
	used := m.peering.Ways(host)
	for _, w := range m.prober.Ways(host) {
		way := wayOf(w)
		if w.State == probe.Down && w.RoundTrip == 0 && !m.onLink(way.Local, way.Remote) && !used[way] {
			continue
		}
		u, _ := m.at(way.Local)
		list = append(list, Way{Way: w, Device: u.Device, Used: used[way]})
	}
	return list
}

func wayOf(w probe.Way) peering.Way { return peering.Way{Local: w.Local, Remote: w.Remote.Addr()} }

// at is what this host has at an address.
func (m *Mesh) at(local netip.Addr) (Underlay, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.underlay, func(u Underlay) bool { return u.Prefix.Addr() == local })
	if i < 0 {
		return Underlay{}, false
	}
	return m.underlay[i], true
}

// pairs are the ways that there could be to a host, the best first.
func (m *Mesh) pairs(host string) (list []probe.Pair) {
	m.mu.Lock()
	for _, u := range m.underlay {
		for _, r := range m.hosts[host] {
			if local := u.Prefix.Addr(); local.Is4() == r.Addr.Addr().Is4() {
				list = append(list, probe.Pair{Local: local, Remote: netip.AddrPortFrom(r.Addr.Addr(), r.Addr.Port()+ProbePort)})
			}
		}
	}
	m.mu.Unlock()
	slices.SortStableFunc(list, func(a, b probe.Pair) int {
		return m.compare(host, peering.Way{Local: a.Local, Remote: a.Remote.Addr()}, peering.Way{Local: b.Local, Remote: b.Remote.Addr()})
	})
	return list[:min(len(list), maxWays)]
}

// compare orders ways to a host, the best first: by the priorities of both ends together, then
// those on one link. Both hosts have the same order.
func (m *Mesh) compare(host string, a, b peering.Way) int {
	far := func(w peering.Way) int {
		if m.onLink(w.Local, w.Remote) {
			return 0
		}
		return 1
	}
	ends := func(w peering.Way) (one, two netip.Addr) {
		if m.opt.Self < host {
			return w.Local, w.Remote
		}
		return w.Remote, w.Local
	}
	a1, a2 := ends(a)
	b1, b2 := ends(b)
	return cmp.Or(cmp.Compare(m.priority(host, a), m.priority(host, b)), cmp.Compare(far(a), far(b)), a1.Compare(b1), a2.Compare(b2))
}

// priority is that of a way: the lower, the sooner.
func (m *Mesh) priority(host string, w peering.Way) int {
	u, _ := m.at(w.Local)
	sum := u.Priority
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.hosts[host] {
		if r.Addr.Addr() == w.Remote {
			sum += r.Priority
		}
	}
	return sum
}

// known is what is known of the ways to a host: of those that are not probed now, or not for long
// enough, what was found when there was a channel before.
func (m *Mesh) known(host string) []probe.Way {
	list := m.prober.Ways(host)
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.judged[host]
	if v == nil {
		return list
	}
	if len(list) == 0 {
		return v.before
	}
	for i, w := range list {
		before := slices.IndexFunc(v.before, func(b probe.Way) bool { return b.Pair == w.Pair })
		if w.State == probe.Unknown && before >= 0 {
			list[i] = v.before[before]
		}
	}
	return list
}

// works tells whether packets of a kind of channel get to a host by a way, as far as is known: if
// none of all ways seems to work, such as while the other host's daemon does not run, each may.
func (m *Mesh) works(host string, k channel.Kind, w peering.Way) bool {
	if u, ok := m.at(w.Local); ok && u.MTU < least(k, w) {
		return false
	}
	list := m.known(host)
	good := func(w probe.Way) bool { return (w.State == probe.Up || w.State == probe.Lossy) && !narrow(k, w) }
	i := slices.IndexFunc(list, func(one probe.Way) bool { return wayOf(one) == w })
	return i < 0 || list[i].State == probe.Unknown || good(list[i]) || !slices.ContainsFunc(list, good)
}

// mtu is how large packets of a kind get to a host by a way; 0: that is not known. It is never less
// than a channel needs: by a way that has no room for that a channel goes only if there is no
// other.
func (m *Mesh) mtu(host string, k channel.Kind, w peering.Way) int {
	for _, one := range m.known(host) {
		if wayOf(one) == w && one.MTU > 0 {
			return max(one.MTU, least(k, w))
		}
	}
	return 0
}

// narrow tells whether a way is known to have no room for a channel of a kind.
func narrow(k channel.Kind, w probe.Way) bool { return w.MTU > 0 && w.MTU < least(k, wayOf(w)) }

// narrowForAny tells whether a way is known to have no room for one of the channels to a host.
func (m *Mesh) narrowForAny(host string, w probe.Way) bool {
	return slices.ContainsFunc(m.peering.Kinds(host), func(k channel.Kind) bool { return narrow(k, w) })
}

// least is how large packets are that a way has to carry for a channel of a kind: every network
// has IPv6, which needs 1280 bytes (RFC 8200, 5), and the channel puts headers before them.
func least(k channel.Kind, w peering.Way) int {
	const inside = 1280
	return inside + k.Outer(w.Local)
}
