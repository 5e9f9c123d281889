package underlay

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// Router forwards between networks, IPv4 and IPv6, as a machine of its own. It tells
// senders what does not fit or has nowhere to go, unless it is silent.
type Router struct {
	u    *Underlay
	name string
	ns   *netns.NS
}

// Router makes a router without ports.
func (u *Underlay) Router(name string) (*Router, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	ns, err := netns.New()
	if err == nil {
		err = ns.Do(func() error {
			var errs []error
			for name, value := range map[string]string{
				"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
				// Hosts with several ports may send by one and be reached by another.
				"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
			} {
				errs = append(errs, sysctl(name, value))
			}
			return errors.Join(errs...)
		})
	}
	if err != nil {
		if ns != nil {
			err = errors.Join(err, ns.Close())
		}
		return nil, fmt.Errorf("make router %s: %w", name, err)
	}
	r := &Router{u: u, name: name, ns: ns}
	u.routers = append(u.routers, r)
	return r, nil
}

// Name is the router's name.
func (r *Router) Name() string { return r.name }

// Attach gives the router a port of a network. All hosts get routes through it to
// what it makes reachable.
func (r *Router) Attach(ctx context.Context, n *Network, cfg PortConfig) (*Port, error) {
	return n.attach(ctx, r, cfg)
}

// silence is the table of a silent router.
const silence = "silence"

// SetSilent makes the router keep its errors to itself, or ends that. A silent one
// with a port of a small MTU is a black hole for what is too large.
func (r *Router) SetSilent(on bool) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(r.ns.File().Fd())))
	if err != nil {
		return fmt.Errorf("silence router %s: %w", r.name, err)
	}
	table := &nftables.Table{Name: silence, Family: nftables.TableFamilyINet}
	c.AddTable(table) // to delete one that is not there would be an error
	c.DelTable(table)
	if on {
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{
			Name: "out", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
		})
		// All errors of ICMPv6 are below 128 (RFC 4443, 2.1).
		c.AddRule(dropICMP(table, chain, unix.IPPROTO_ICMPV6, expr.CmpOpLt, 128))
		for _, kind := range []byte{3, 11, 12} { // RFC 792: unreachable, time exceeded, parameter problem
			c.AddRule(dropICMP(table, chain, unix.IPPROTO_ICMP, expr.CmpOpEq, kind))
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("silence router %s: %w", r.name, err)
	}
	return nil
}

// dropICMP drops messages of a protocol by their type.
func dropICMP(table *nftables.Table, chain *nftables.Chain, proto byte, op expr.CmpOp, kind byte) *nftables.Rule {
	return &nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{kind}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}}
}
