package fabric

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/rule"
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
// their say. What comes from an endpoint of another host before this one knows of the way there is
// dropped without a word: an answer would end a connection that has only begun too early, and is
// tried again. outward comes before routing, so that an app gets its answer also
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
		inward.rules = append(inward.rules, rule.Join(rule.Out(dev), rule.Known(), rule.Accept()), rule.Join(rule.Out(dev), rule.Redirected(), rule.Accept()))
	}
	for _, n := range f.prefixes() {
		inward.rules = append(inward.rules, rule.Join(rule.Out(dev), rule.Addr(rule.Source, n.prefix), rule.Drop()))
	}
	inward.rules = append(append(inward.rules, f.forwards()...), rule.Join(rule.Out(dev), rule.Reject()))
	outward.rules = f.reaches()
	for _, n := range f.prefixes() {
		if f.translatesOutside(n.gateway) {
			continue
		}
		// The gateway first: that is most of what comes, and fib is a route lookup.
		match := rule.Join(rule.In(dev), rule.NotAddr(rule.Target, single(n.gateway)))
		if tracked {
			match = rule.Join(match, rule.Unknown(), rule.NotRedirected())
		}
		outward.rules = append(outward.rules, rule.Join(match, rule.Abroad(), rule.Reject()))
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
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, f.masquerades(list)},
	}
}

// insideRuleset is the table inside the fabric: the reverse path filter that the
// kernel has for IPv4 only (rp_filter). The fast path does its own check before. What the
// slow path's device gives back was checked where it came from, and VXLAN's and WireGuard's have
// tables of their own.
func insideRuleset() []chain {
	return []chain{{
		name: "forged", kind: nftables.ChainTypeFilter,
		hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityRaw,
		rules: [][]expr.Any{rule.Join(rule.Family(nextHop6), rule.NotIn(SlowDevice), rule.NotIn(VXLANDevice), rule.NotIn(WireGuardDevice), rule.NotIn(MachinesDevice), rule.Forged(), rule.Drop())},
	}}
}

// masquerades are the rules of the postrouting chain. The source becomes the
// gateway's address where the app would otherwise answer to an address that means
// somebody else to it: a loopback one, or another app's when that came through
// the host; and where it would answer past this host. It
// becomes the host's own on the way to the outside.
func (f *Fabric) masquerades(published []Publication) [][]expr.Any {
	dev := f.HostDevice()
	loopback := netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	list := append(append(f.strangers(published), f.keeps()...), rule.Join(rule.Out(dev), rule.Addr(rule.Source, loopback), rule.Masquerade()))
	for _, n := range f.prefixes() {
		list = append(list, rule.Join(rule.Out(dev), rule.Addr(rule.Source, n.prefix), rule.NotAddr(rule.Source, single(n.gateway)), rule.Masquerade()))
		if f.translatesOutside(n.gateway) {
			list = append(list, rule.Join(rule.NotOut(dev), rule.Addr(rule.Source, n.prefix), rule.NotAddr(rule.Source, single(n.gateway)), rule.Masquerade()))
		}
	}
	return append(list, f.disguises()...)
}

// translates tells whether the host has to translate addresses.
func (f *Fabric) translates(list []Publication) bool {
	return f.cfg.Outside != OutsideNone || len(list) > 0 || f.beyond.On
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
	match := rule.Join(rule.Family(p.Addr), rule.ToHost())
	if p.HostAddr.IsValid() {
		match = rule.Addr(rule.Target, single(p.HostAddr))
	}
	return rule.Join(match, rule.Port(number, p.HostPort), rule.DNAT(netip.AddrPortFrom(p.Addr, p.Port)))
}
