// Package vxlan carries the packets of a network to other hosts by a VXLAN device and routes of the
// kernel's, without BPF. It is slower than package redirect, and for hosts that don't have that.
//
// The device is in the fabric of the network, and its UDP socket in the host's namespace: packets
// need no address of the underlay in the fabric, and no hop through the host. It takes its tunnel's
// ends from the route (ip-link(8), "external"):
//
//	endpoint -- fabric: route 10.77.0.9 -- nexthop object of the host -- vxlan0 -- UDP port 7077
//
// A nexthop object (ip-nexthop(8)) has the ends of the tunnel to one host. All routes to the host's
// endpoints name it, so that all of them change by one message, however many there are. Nothing is
// learned, and nothing is sent to a multicast group: the hardware address of a host's device comes
// from the host's name, and its neighbour entry is permanent. One nexthop object is for both
// families, by a gateway that is an IPv6 address of the link. Package routes has the routes, also those
// to prefixes of machines beyond gateways.
//
// # Who can send into the network
//
// VXLAN takes packets from anybody. A table of the host's firewall (nftables) lets those in whose
// outer source is an address of a known host, whose outer destination is one of this host, and
// that come by an underlay device, and marks them by a priority that no packet has otherwise, see
// package guard. A table in the fabric drops what has not got it, and packets whose inside source is an
// endpoint of this host, or no address of the network. So if somebody else flushes the
// host's firewall no packet gets in, until the daemon has put the table back. The mark tells which host
// has sent a packet: from a machine beyond a gateway it is let in if that host is a gateway for it. Like
// [channel.Tunnel] it is not encrypted: whoever can send with another host's address as the source
// can send as any endpoint there.
//
// # What the inner packet sees
//
// The network is two hops: the fabrics' routers. Congestion is passed on (RFC 6040), and the outer
// packet is never fragmented on the way. A packet that does not fit is answered by the fabric.
//
// # In the kernel
//
// Device, nexthop objects, routes and firewall tables are the kernel's, and the next [Open] finds
// all hosts and routes in them. They are made for the first host and removed with the last.
//
// Needs CAP_NET_ADMIN and CAP_SYS_ADMIN, the kernel's modules vxlan and nf_tables, and IPv6 in the
// kernel, though not on the network; Linux 5.3, and 5.18 for more than one network on a host.
package vxlan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/channel/routes"
	"github.com/snapctl/snapctl/vem/netns"
)

// Port is the UDP port that hosts send to. It has the number of the control channel's TCP port, so
// that firewalls on the way have one number to know.
const Port = 7077

// Config is one network.
type Config struct {
	Self             string    // this host's name, as others call it
	Network          string    // the network's name
	Fabric, Host     *netns.NS // namespaces; Open takes its own handles of them
	Prefix4, Prefix6 netip.Prefix
	MTU              int // of all apps' devices
	// Machines has the channels be for packets from and to machines beyond gateways alone. The fabric
	// is in the place of the host: they go by another device of it, which leads to the other hosts'
	// fabrics, and has the addresses of the "underlay". Package wireguard has such a module.
	Machines bool
}

// Module makes channels of kind [channel.VXLAN]. It is a [channel.Module].
type Module struct {
	cfg    Config
	fabric *side
	host   *side
	guard  guard.Guard  // what lets packets of known hosts in, and counts them
	inside guard.Inside // and what drops the others
	table  routes.Table

	mu       sync.Mutex // one change of the kernel's state at a time; nothing waits under it
	closed   bool
	device   int // index in the fabric; 0: there is none
	underlay map[netip.Addr]device
	hosts    map[string]*entry
	routes   map[netip.Addr]routes.Route
	beyond   beyond
}

// device is an underlay device.
type device struct {
	name string
	mtu  int
}

// entry is a host that is set.
type entry struct {
	number int // of its nexthop object
	status channel.Status
	seen   channel.Counters // by the last Report
}

// addresses are all that the host may send from.
func (e *entry) addresses() []netip.Addr {
	return append([]netip.Addr{e.status.Host.Remote}, e.status.Host.Sources...)
}

// guarded is the host as the guard knows it.
func (e *entry) guarded() guard.Host {
	return guard.Host{Number: e.number, Name: e.status.Host.Name, Addresses: e.addresses()}
}

var (
	_ channel.Module = (*Module)(nil)
	_ channel.Router = (*Module)(nil)
)

// Open opens a network's channels: those that an earlier run left, and none if there was none. The
// underlay is not known until SetUnderlay, which does not stop the channels that are there. The
// caller closes the Module before the fabric.
func Open(ctx context.Context, cfg Config) (*Module, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m := &Module{cfg: cfg, underlay: make(map[netip.Addr]device), hosts: make(map[string]*entry), routes: make(map[netip.Addr]routes.Route)}
	if err := m.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open VXLAN channels of network %s: %w", cfg.Network, err), m.Close())
	}
	return m, nil
}

func (m *Module) open() (err error) {
	if m.fabric, err = openSide(m.cfg.Fabric); err != nil {
		return err
	}
	if m.host, err = openSide(m.cfg.Host); err != nil {
		return err
	}
	m.guard, m.inside = newGuard(&m.cfg, m.host.ns), newInside(&m.cfg, m.fabric.ns)
	n := m.cfg.numbers()
	m.table = routes.Table{NS: m.fabric.ns, Protocol: n.protocol, Metric: n.metric, Opening: n.opening, Aside: n.aside}
	m.beyond.prefixes = routes.Prefixes{NS: m.fabric.ns, Protocol: n.prefixes, Metric: n.metric}
	for _, p := range []netip.Prefix{m.cfg.Prefix4, m.cfg.Prefix6} {
		if p.IsValid() {
			m.beyond.prefixes.Gateways = append(m.beyond.prefixes.Gateways, p.Masked().Addr().Next())
		}
	}
	if err := m.adopt(); err != nil || len(m.hosts) > 0 {
		return err
	}
	return m.takeDown() // a process that was killed while it did so may have left something
}

// usable refuses what has been cancelled, and a closed module. m.mu is held.
func (m *Module) usable(ctx context.Context) error {
	if m.closed {
		return fmt.Errorf("use VXLAN channels of network %s: %w", m.cfg.Network, fs.ErrClosed)
	}
	return ctx.Err()
}

// Kinds returns [channel.VXLAN].
func (m *Module) Kinds() []channel.Kind { return []channel.Kind{channel.VXLAN} }

// Close drops the handles; see [channel.Module].
func (m *Module) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	return errors.Join(m.fabric.close(), m.host.close())
}

// Delete removes all; see [channel.Module].
func (m *Module) Delete(ctx context.Context) error {
	if err := m.clear(ctx); err != nil {
		return fmt.Errorf("delete VXLAN channels of network %s: %w", m.cfg.Network, err)
	}
	return m.Close()
}

func (m *Module) clear(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.beyond.list = []channel.Beyond{}
	return m.takeDown()
}

// side is a namespace and a netlink socket in it.
type side struct {
	ns *netns.NS
	nl *netlink.Handle
}

func openSide(ns *netns.NS) (*side, error) {
	own, err := ns.Dup()
	if err != nil {
		return nil, err
	}
	s := &side{ns: own}
	err = own.Do(func() (err error) {
		s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), own.Close())
	}
	return s, nil
}

func (s *side) close() error {
	if s == nil {
		return nil
	}
	s.nl.Close()
	return s.ns.Close()
}
