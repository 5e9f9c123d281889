package underlay

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// metric is that of the first port's routes; those of later ports are worse.
const metric = 1000

// way is how a node reaches a network that it has no port of.
type way struct {
	to   *Network
	by   *Port // of the node
	next *Port // of the first router
}

// route gives every node the routes that it lacks. u.mu is held.
func (u *Underlay) route() error {
	for _, n := range u.nodes {
		for i, p := range n.ports {
			for _, w := range n.ways(p) {
				if err := w.add(metric + i); err != nil {
					return fmt.Errorf("give %s a route to %s: %w", n.Name(), w.to.Name(), err)
				}
			}
		}
	}
	return nil
}

// ways finds the networks that a node reaches by a port through routers, each by the
// fewest of them.
func (n *node) ways(by *Port) []way {
	seen := map[*Network]bool{}
	for _, p := range n.ports {
		seen[p.net] = true
	}
	var found []way
	reach := func(from *Network, first *Port) {
		for _, p := range from.ports {
			if p == nil || !p.node.forward || p.node == n {
				continue
			}
			next := first
			if next == nil {
				next = p
			}
			for _, out := range p.node.ports {
				if !seen[out.net] {
					seen[out.net] = true
					found = append(found, way{out.net, by, next})
				}
			}
		}
	}
	reach(by.net, nil)
	for i := 0; i < len(found); i++ { // it grows
		reach(found[i].to, found[i].next)
	}
	return found
}

// add adds the routes, one for each prefix.
func (w way) add(priority int) error {
	return w.by.inNode(func(dev netlink.Link) error {
		for _, prefix := range w.to.cfg.Prefixes {
			gateway := w.next.Addr6()
			if prefix.Addr().Is4() {
				gateway = w.next.Addr4()
			}
			if !gateway.IsValid() {
				continue
			}
			err := netlink.RouteReplace(&netlink.Route{
				Dst: ipNet(prefix), Gw: gateway.AsSlice(), LinkIndex: dev.Attrs().Index,
				Priority: priority, Protocol: unix.RTPROT_STATIC,
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
