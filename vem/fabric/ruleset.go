package fabric

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// chain is one base chain of the host's table with its rules.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    [][]expr.Any
}

// ruleset is the whole content of the host's table for a set of publications.
//
// inward and outward decide which packets the host passes between the network and
// others than itself; an accept ends this table only, other tables still have
// their say. outward comes before routing, so that an app gets its answer also
// where the host does not forward and would just drop the packet.
//
// Connection tracking and address translation are there only if something needs
// them, because they cost every packet of the host a lookup. Where they are, the
// traffic between host and apps is tracked too: exempting it (notrack) would save
// 0.5 us a packet, but the common host firewalls let answers in by "ct state
// established", so they would drop it.
func (f *Fabric) ruleset(list []Publication) []chain {
	dev := f.HostDevice()
	inward := chain{
		name: "inward", kind: nftables.ChainTypeFilter,
		hook: nftables.ChainHookForward, priority: nftables.ChainPriorityFilter,
	}
	outward := chain{ // after the translation of published ports (-100)
		name: "outward", kind: nftables.ChainTypeFilter,
		hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityFilter,
	}
	tracked := f.translates(list)
	if tracked {
		inward.rules = append(inward.rules, join(out(dev), known(), accept()), join(out(dev), redirected(), accept()))
	}
	inward.rules = append(inward.rules, join(out(dev), reject()))
	for _, n := range f.prefixes() {
		if f.translatesOutside(n.gateway) {
			continue
		}
		// The gateway first: that is most of what comes, and fib is a route lookup.
		match := join(in(dev), notAddr(target, single(n.gateway)))
		if tracked {
			match = join(match, unknown(), notRedirected())
		}
		outward.rules = append(outward.rules, join(match, abroad(), reject()))
	}
	if !tracked {
		return []chain{inward, outward}
	}
	var to [][]expr.Any
	for _, p := range list {
		to = append(to, p.rule())
	}
	return []chain{
		inward, outward,
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, to},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, to},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, f.masquerades()},
	}
}

// insideRuleset is the table inside the fabric: the reverse path filter that the
// kernel has for IPv4 only (rp_filter). The fast path does its own check before. What the
// slow path's device gives back was checked where it came from, and VXLAN's has a table of its own.
func insideRuleset() []chain {
	return []chain{{
		name: "forged", kind: nftables.ChainTypeFilter,
		hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityRaw,
		rules: [][]expr.Any{join(proto(nextHop6), notIn(SlowDevice), notIn(VXLANDevice), forged(), drop())},
	}}
}

// masquerades are the rules of the postrouting chain. The source becomes the
// gateway's address where the app would otherwise answer to an address that means
// somebody else to it: a loopback one, or another app's when that came through
// the host. It becomes the host's own on the way to the outside.
func (f *Fabric) masquerades() [][]expr.Any {
	dev := f.HostDevice()
	loopback := netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	list := [][]expr.Any{join(out(dev), addr(source, loopback), masquerade())}
	for _, n := range f.prefixes() {
		list = append(list, join(out(dev), addr(source, n.prefix), notAddr(source, single(n.gateway)), masquerade()))
		if f.translatesOutside(n.gateway) {
			list = append(list, join(notOut(dev), addr(source, n.prefix), notAddr(source, single(n.gateway)), masquerade()))
		}
	}
	return list
}

// translates tells whether the host has to translate addresses.
func (f *Fabric) translates(list []Publication) bool {
	return f.cfg.Outside != OutsideNone || len(list) > 0
}

func (f *Fabric) translatesOutside(a netip.Addr) bool {
	if a.Is6() {
		return f.cfg.Outside == OutsideDual
	}
	return f.cfg.Outside != OutsideNone
}

func (p Publication) rule() []expr.Any {
	number := uint8(unix.IPPROTO_TCP)
	if p.Proto == "udp" {
		number = unix.IPPROTO_UDP
	}
	match := join(proto(p.Addr), toHost())
	if p.HostAddr.IsValid() {
		match = addr(target, single(p.HostAddr))
	}
	return join(match, port(number, p.HostPort), dnat(netip.AddrPortFrom(p.Addr, p.Port)))
}
