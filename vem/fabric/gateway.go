package fabric

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"

	"github.com/snapctl/snapctl/vem/fabric/rule"
)

// Gateway says what the host forwards between the network and machines that are no part of it. The
// zero value is nothing but published ports.
type Gateway struct {
	On bool // what other machines send to the network's prefixes is forwarded
	// Keep are prefixes of machines that endpoints see and reach at their own addresses. All others
	// appear to endpoints as the host, and so do these by published ports.
	Keep []netip.Prefix
	// Elsewhere are prefixes of such machines for which other hosts are gateways.
	Elsewhere []netip.Prefix
}

// Equal tells whether two mean the same.
func (g Gateway) Equal(h Gateway) bool {
	return g.On == h.On && slices.Equal(g.Keep, h.Keep) && slices.Equal(g.Elsewhere, h.Elsewhere)
}

// SetGateway says what the host forwards from the next [Fabric.SetPublications] on. It returns an
// error wrapping [ErrConfig] if a prefix to keep overlaps the network's.
func (f *Fabric) SetGateway(g Gateway) error {
	for _, k := range g.Keep {
		if !k.IsValid() || k != k.Masked() || k.Overlaps(f.cfg.Prefix4) || f.cfg.Prefix6.IsValid() && k.Overlaps(f.cfg.Prefix6) {
			return fmt.Errorf("%w: machines behind the gateway of network %s can't have addresses of %s", ErrConfig, f.cfg.Network, k)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beyond = g
	return nil
}

// forwards are the rules that let in what the host forwards to the network. The host's other
// networks stay apart.
func (f *Fabric) forwards() [][]expr.Any {
	if !f.beyond.On {
		return nil
	}
	dev := f.HostDevice()
	return [][]expr.Any{rule.Join(rule.Out(dev), rule.InAny(devicePrefix), rule.Reject()), rule.Join(rule.Out(dev), rule.Accept())}
}

// reaches are the rules that let endpoints reach machines at their own addresses.
func (f *Fabric) reaches() (list [][]expr.Any) {
	for _, k := range f.beyond.Keep {
		list = append(list, rule.Join(rule.In(f.HostDevice()), rule.Addr(rule.Target, k), rule.Accept()))
	}
	return list
}

// strangers are the rules by which machines that come by a published port appear as the host, where
// an answer might not come back by it: to an app of another host, and from machines to which a gateway
// leads, now or after this host is none any more.
func (f *Fabric) strangers(list []Publication) (all [][]expr.Any) {
	dev := f.HostDevice()
	for _, p := range list {
		if p.Far {
			all = append(all, rule.Join(rule.Out(dev), rule.Addr(rule.Target, single(p.Addr)), rule.Redirected(), rule.Masquerade()))
		}
	}
	for _, e := range slices.Concat(f.beyond.Keep, f.beyond.Elsewhere) {
		all = append(all, rule.Join(rule.Out(dev), rule.Addr(rule.Source, e), rule.Redirected(), rule.Masquerade()))
	}
	return all
}

// keeps are the rules that leave addresses as they are.
func (f *Fabric) keeps() (list [][]expr.Any) {
	dev := f.HostDevice()
	for _, k := range f.beyond.Keep {
		list = append(list, rule.Join(rule.Out(dev), rule.Addr(rule.Source, k), rule.Accept()))
		for _, n := range f.prefixes() {
			if n.prefix.Addr().Is4() == k.Addr().Is4() {
				list = append(list, rule.Join(rule.NotOut(dev), rule.Addr(rule.Source, n.prefix), rule.Addr(rule.Target, k), rule.Accept()))
			}
		}
	}
	return list
}

// disguises are the rules by which all other machines appear as the host. A published port of an app
// here shows them as they are.
func (f *Fabric) disguises() (list [][]expr.Any) {
	if !f.beyond.On {
		return nil
	}
	for _, n := range f.prefixes() {
		list = append(list, rule.Join(rule.Out(f.HostDevice()), rule.NotAddr(rule.Source, n.prefix), rule.NotRedirected(), rule.Masquerade()))
	}
	return list
}
