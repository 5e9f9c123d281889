// Package redirect carries the packets of a network to other hosts by BPF programs, which move
// them past the routers and firewalls of fabric and host: what costs on the way to another host
// is the number of devices and stacks that a packet passes, much more than an outer header.
// The programs are those of package fastpath, and this one decides what they know.
//
// It makes channels of two kinds:
//
//	direct  The packet goes as it is, in an Ethernet frame to the other host's MAC address, which
//	        the kernel finds as for any neighbour. Both hosts have to be on one link.
//	tunnel  The packet goes in an IP packet between the two hosts' addresses: protocol 4 for IPv4
//	        inside, 41 for IPv6 (RFC 2003, 4213, 2473). It takes 20 bytes, or 40 over IPv6.
//
// Over an IPv4 underlay direct carries IPv6 packets as tunnel does, since IPv6 has no next hop
// with an IPv4 address.
//
// # Why IP in IP and not UDP
//
// It is cheaper: 0.84 of the bare underlay's throughput at 1.2 times its CPU for each byte, where
// UDP has 0.81 at 1.3 (medians of 33 and 15 pairs of runs). It has 8 bytes less. And a receiving
// network card's packets are put together to large ones before they get to the program
// (inet_gro_receive knows protocol 4 and 41), but not those of a UDP port that has no socket of
// the kernel's. What it has not: a network's number, so the networks of a host whose packets
// arrive here must not overlap, which the fabric sees to; ports, by which routers between hosts
// would spread connections over several ways (over IPv6 the flow label does that); and some
// clouds' firewalls let only TCP, UDP and ICMP pass. Where one of these counts it takes another
// kind of channel.
//
// # What the inner packet sees
//
// The hop limit does not change: the network is one hop. Congestion on the underlay that a router
// marks is passed on to the endpoint (RFC 6040). Fragments, and protocols that the kernel does not
// know, pass as they are, since only addresses are looked at. Segments that the kernel has left
// whole (GSO, of TCP and UDP) are passed whole; those of SCTP are split before, in the slow path.
//
// # Who can send into the network
//
// See [channel.Direct] and [channel.Tunnel]: neither kind is encrypted or signed, they are for an
// underlay that is trusted. What the programs check: for a tunnelled packet that its outer source
// is an address of a known host and its outer destination one of this host, else it is dropped
// and counted; for a direct one that its source has a route here to a host that may send so, else
// it goes the way that any packet goes that another machine routes to this host.
//
// What machines beyond gateways send and get at their own addresses goes in a tunnel on every way. It
// is let in if the host that the outer source is of is a gateway for the inner one, and sent to
// a gateway for the inner destination, which forwards it by its own routes. Nothing remembers
// connections: what goes out by one gateway may come back by another.
//
// # In the kernel
//
// The ways are one element of an array for each host, the routes one hash table. Each underlay
// device has a program, and the host's device of the network two, without any file: a daemon's end
// changes nothing, and the next [Open] replaces them without a gap and finds all hosts and routes
// again. [Module.Delete] removes them; so does the next Open of any network with those of a network
// that is gone.
//
// Needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN; Linux 5.11, and 6.3 for IPv6 over IPv4 or the
// reverse.
package redirect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netns"
)

// Config is one network. Its fields are those of fabric.Far, and belong to the fabric, which
// has to stay open.
type Config struct {
	Remotes          *fastpath.Remotes
	Host             *netns.NS // the host's namespace; Open takes its own handle of it
	Device           string    // the host's device of the network
	Prefix4, Prefix6 netip.Prefix
	MTU              int // of all apps' devices
	// Narrow makes the fabric answer packets that a program has marked with one of these sizes as too
	// big, and those with another one no more.
	Narrow func(sizes []int) error
}

// Module makes direct and tunnel channels. It is a [channel.Module].
type Module struct {
	cfg    Config
	ns     *netns.NS
	nl     *netlink.Handle // in the host's namespace
	device int             // index of cfg.Device
	ends   *fastpath.Ends

	mu       sync.Mutex // one change of the kernel's state at a time; nothing waits under it
	closed   bool
	underlay map[netip.Addr]device
	hosts    map[string]*entry
	narrow   []int            // sizes that the fabric was told of; nil: none yet
	beyond   []channel.Beyond // nil: not told yet
}

// device is an underlay device.
type device struct{ index, mtu int }

// entry is a host that is set.
type entry struct {
	number  int // its number in the kernel
	status  channel.Status
	path    fastpath.Path // as the kernel has it; zero if an earlier run wrote it
	changed time.Time
}

var (
	_ channel.Module = (*Module)(nil)
	_ channel.Router = (*Module)(nil)
)

// Open opens a network's channels: those that an earlier run left, and none if there was none. It
// replaces the programs on the host's devices by its own. The underlay is not known until
// SetUnderlay, which does not stop the channels that are there.
//
// It returns an error wrapping [fastpath.ErrUnsupported] if the kernel can't do it. The caller
// closes the Module before the fabric.
func Open(ctx context.Context, cfg Config) (*Module, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m := &Module{cfg: cfg, underlay: make(map[netip.Addr]device), hosts: make(map[string]*entry)}
	if err := m.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open channels of %s: %w", cfg.Device, err), m.Close())
	}
	return m, nil
}

func (m *Module) open() (err error) {
	if m.ns, err = m.cfg.Host.Dup(); err != nil {
		return err
	}
	err = m.ns.Do(func() (err error) {
		m.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	dev, err := m.nl.LinkByName(m.cfg.Device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", m.cfg.Device, err)
	}
	m.device = dev.Attrs().Index
	if err := m.adopt(); err != nil {
		return err
	}
	if m.ends, err = m.cfg.Remotes.Ends(m.device, m.cfg.Prefix4, m.cfg.Prefix6); err != nil {
		return err
	}
	if err := m.ends.InstallLeave(m.net()); err != nil {
		return err
	}
	if err := m.replaceArrivals(); err != nil {
		return err
	}
	return m.tellNarrow() // an earlier run may have ended before it did
}

func (m *Module) net() tcx.Net { return tcx.Net{NL: m.nl, Do: m.ns.Do} }

// adopt reads which hosts the kernel has.
func (m *Module) adopt() error {
	paths, err := m.cfg.Remotes.Paths()
	if err != nil {
		return err
	}
	byNumber := make(map[int]*entry, len(paths))
	for number, p := range paths {
		e := &entry{number: number, status: channel.Status{Host: fromPath(p), MTU: p.MTU}}
		byNumber[number], m.hosts[p.Name] = e, e
	}
	senders, err := m.cfg.Remotes.Senders()
	if err != nil {
		return err
	}
	for a, number := range senders {
		e := byNumber[number]
		switch {
		case e == nil: // of a host that was being removed
			if err := m.cfg.Remotes.RemoveSender(a); err != nil {
				return err
			}
		case a != e.status.Host.Remote:
			e.status.Host.Sources = append(e.status.Host.Sources, a)
		}
	}
	return m.tellDirect()
}

// usable refuses what has been cancelled, and a closed module. m.mu is held.
func (m *Module) usable(ctx context.Context) error {
	if m.closed {
		return fmt.Errorf("use channels of %s: %w", m.cfg.Device, fs.ErrClosed)
	}
	return ctx.Err()
}

// Kinds returns [channel.Direct] and [channel.Tunnel].
func (m *Module) Kinds() []channel.Kind { return []channel.Kind{channel.Direct, channel.Tunnel} }

// Close drops the handles; see [channel.Module].
func (m *Module) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	var errs []error
	if m.ends != nil {
		errs = append(errs, m.ends.Close())
	}
	if m.nl != nil {
		m.nl.Close()
	}
	if m.ns != nil {
		errs = append(errs, m.ns.Close())
	}
	return errors.Join(errs...)
}

// Delete removes all; see [channel.Module].
func (m *Module) Delete(ctx context.Context) error {
	if err := m.clear(ctx); err != nil {
		return fmt.Errorf("delete channels of %s: %w", m.cfg.Device, err)
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
	for name := range m.hosts {
		if err := m.removeHost(name); err != nil {
			return err
		}
	}
	devices, err := m.arrivals()
	if err != nil {
		return err
	}
	for _, index := range devices {
		if err := fastpath.RemoveArrive(m.net(), index, m.device); err != nil {
			return err
		}
	}
	if err := errors.Join(m.cfg.Remotes.SetHere(nil), m.cfg.Remotes.SetBeyond(nil)); err != nil {
		return err
	}
	return m.ends.RemoveLeave(m.net())
}
