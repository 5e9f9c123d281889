package underlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/netlist"
)

// PortConfig describes a port. The zero value will do.
type PortConfig struct {
	Device string // its name on the host; "eth0", or the next of these, if empty
	// Addresses are those of the device. If nil it gets the next one of each prefix
	// of the network: the first port has the first address.
	Addresses []netip.Prefix
	MTU       int // the network's if 0

	// Line takes the port's frames through this process, so that they can be
	// delayed, reordered and slowed down. It costs two system calls for each frame.
	Line bool
}

// Port is where a host or a router is attached to a network. Its methods are safe
// for concurrent use, but not together with Underlay.Close.
type Port struct {
	net    *Network
	node   *node
	number int
	device string // on the node
	outer  string // the other end of the pair, in the network's namespace
	inner  string // the port of the bridge: outer, or, with a line, a TAP
	index  int    // of inner
	line   *line  // nil if it has none

	mu     sync.Mutex
	faults [2]Faults
	addrs  []netip.Prefix
}

// String returns "eth0 of alpha".
func (p *Port) String() string { return p.device + " of " + p.node.Name() }

// Device is the device's name on the host or router.
func (p *Port) Device() string { return p.device }

// Addr4 is the first IPv4 address of the port, and Addr6 the first IPv6 address. They
// are invalid if there is none.
func (p *Port) Addr4() netip.Addr { return p.addr(netip.Addr.Is4) }

// Addr6 is described at Addr4.
func (p *Port) Addr6() netip.Addr { return p.addr(netip.Addr.Is6) }

func (p *Port) addr(is func(netip.Addr) bool) netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.addrs {
		if is(a.Addr()) {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// Attach gives a host a port of the network, and routes to all networks that
// routers make reachable. It returns when the port can be used.
func (n *Network) Attach(ctx context.Context, h *host.Host, cfg PortConfig) (*Port, error) {
	return n.attach(ctx, h, cfg)
}

func (n *Network) attach(ctx context.Context, to Node, cfg PortConfig) (*Port, error) {
	n.u.mu.Lock()
	defer n.u.mu.Unlock()
	nd, err := n.u.node(to)
	if err != nil {
		return nil, err
	}
	p := &Port{net: n, node: nd, number: len(n.ports), device: cfg.Device}
	if p.device == "" {
		p.device = fmt.Sprintf("eth%d", len(nd.ports))
	}
	most := maxPorts
	if n.cfg.Cable {
		most = 2
	}
	if p.number >= most {
		return nil, fmt.Errorf("attach %v to %s: it has %d ports already", p, n.Name(), most)
	}
	if p.addrs = cfg.Addresses; p.addrs == nil {
		p.addrs = n.free(p.number)
	}
	p.addrs = slices.Clone(p.addrs)
	if cfg.MTU == 0 {
		cfg.MTU = n.cfg.MTU
	}
	err = p.open(cfg)
	if err == nil {
		err = p.usable(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("attach %v to %s: %w", p, n.Name(), errors.Join(err, p.remove()))
	}
	n.ports, nd.ports = append(n.ports, p), append(nd.ports, p)
	if err := n.u.route(); err != nil {
		return nil, fmt.Errorf("attach %v to %s: %w", p, n.Name(), err)
	}
	return p, nil
}

// free returns the address of each prefix that the port of a number gets.
func (n *Network) free(number int) []netip.Prefix {
	var list []netip.Prefix
	for _, prefix := range n.cfg.Prefixes {
		a := prefix.Masked().Addr()
		for range number + 1 {
			a = a.Next()
		}
		list = append(list, netip.PrefixFrom(a, prefix.Bits()))
	}
	return list
}

// firstIndex is that of the first port's outer device. It is none that a device of a
// host gets: the kernel delays word of a carrier for up to a second if both ends of
// a pair have the same index (net/core/link_watch.c, linkwatch_urgent_event).
const firstIndex = 100000

// open makes the port's devices. The caller removes what is there if it fails.
func (p *Port) open(cfg PortConfig) error {
	p.net.u.wires++
	p.outer = fmt.Sprintf("wire%d", p.number+1)
	p.inner = p.outer
	err := p.net.ns.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: p.outer, Index: firstIndex + p.net.u.wires, MTU: maxMTU},
			PeerName:  p.device, PeerNamespace: netlink.NsFd(p.node.ns.File().Fd()), PeerMTU: uint32(cfg.MTU),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add pair of devices: %w", err)
		}
		if cfg.Line {
			p.inner = fmt.Sprintf("tap%d", p.number+1)
			var err error
			if p.line, err = newLine(veth.Index, p.inner); err != nil {
				return err
			}
		}
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		inner, err := netlink.LinkByName(p.inner)
		if err != nil {
			return fmt.Errorf("find %s: %w", p.inner, err)
		}
		p.index = inner.Attrs().Index
		if err := netlink.LinkSetMTU(inner, maxMTU); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
		if err := p.net.taps.install(p.number, p.index); err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(inner, bridge); err != nil {
			return fmt.Errorf("add port of bridge: %w", err)
		}
		return errors.Join(netlink.LinkSetUp(veth), netlink.LinkSetUp(inner))
	})
	if err != nil {
		return err
	}
	return p.inNode(func(dev netlink.Link) error {
		for _, a := range p.addrs {
			if err := addAddress(dev, a); err != nil {
				return err
			}
		}
		if !p.net.cfg.Offload || cfg.Line {
			// A line can't carry the runs of all kinds of tunnels.
			if err := netlink.LinkSetGSOMaxSegs(dev, 1); err != nil {
				return fmt.Errorf("set segments: %w", err)
			}
		}
		return netlink.LinkSetUp(dev)
	})
}

// inNode runs fn with the node's device.
func (p *Port) inNode(fn func(netlink.Link) error) error {
	return p.node.ns.Do(func() error {
		dev, err := netlink.LinkByName(p.device)
		if err != nil {
			return fmt.Errorf("find %v: %w", p, err)
		}
		return fn(dev)
	})
}

func addAddress(dev netlink.Link, at netip.Prefix) error {
	addr, err := netlink.ParseAddr(at.String())
	if err != nil {
		return err
	}
	if at.Addr().Is6() {
		addr.Flags |= unix.IFA_F_NODAD // it is ours to see that there are no two
	}
	if err := netlink.AddrAdd(dev, addr); err != nil {
		return fmt.Errorf("add address %v: %w", at, err)
	}
	return nil
}

// usable waits until the node's device has a carrier and its addresses can be bound
// to: the kernel ends the tentative state of an IPv6 address a little later, even
// without duplicate detection.
func (p *Port) usable(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		ready := false
		err := p.inNode(func(dev netlink.Link) error {
			addrs, err := netlist.Addrs(netlist.Here())
			ready = dev.Attrs().OperState == netlink.OperUp && !slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
				return a.LinkIndex == dev.Attrs().Index && !a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE != 0
			})
			return err
		})
		if ready || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for a carrier: %w", ctx.Err())
		}
	}
}

// Down takes the carrier from the port, as a cable does that is pulled out of the
// device itself. On a cable it takes that of the other end too.
func (p *Port) Down() error {
	if err := p.carrier(netlink.LinkSetDown); err != nil {
		return fmt.Errorf("take carrier from %v: %w", p, err)
	}
	return nil
}

// Up undoes Down and returns when the carrier is there.
func (p *Port) Up(ctx context.Context) error {
	err := p.carrier(netlink.LinkSetUp)
	if err == nil {
		err = p.usable(ctx)
	}
	if err != nil {
		return fmt.Errorf("give carrier to %v: %w", p, err)
	}
	return nil
}

func (p *Port) carrier(set func(netlink.Link) error) error {
	return p.net.ns.Do(func() error {
		names := []string{p.outer}
		if p.net.cfg.Cable {
			names = []string{"wire1", "wire2"}
		}
		for _, name := range names {
			dev, err := netlink.LinkByName(name)
			if missing(err) && name != p.outer {
				continue // nobody is at the other end
			}
			if err == nil {
				err = set(dev)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func missing(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok
}

// SetMTU changes the MTU of the device alone. A router to whose device something is to
// go that is larger says so to the sender, unless it is silent. What comes to a device and
// is larger is dropped, so that a network should have one MTU: [Network.SetMTU].
func (p *Port) SetMTU(mtu int) error {
	err := p.inNode(func(dev netlink.Link) error { return netlink.LinkSetMTU(dev, mtu) })
	if err != nil {
		return fmt.Errorf("set MTU of %v: %w", p, err)
	}
	return nil
}

// AddAddress gives the device one more address and returns when it can be used.
func (p *Port) AddAddress(ctx context.Context, at netip.Prefix) error {
	err := p.inNode(func(dev netlink.Link) error { return addAddress(dev, at) })
	if err == nil {
		err = p.usable(ctx)
	}
	if err != nil {
		return fmt.Errorf("add address to %v: %w", p, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addrs = append(p.addrs, at)
	return nil
}

// RemoveAddress takes an address from the device. The kernel removes the secondary
// addresses of its subnet too, unless net.ipv4.conf.*.promote_secondaries is 1.
func (p *Port) RemoveAddress(at netip.Prefix) error {
	err := p.inNode(func(dev netlink.Link) error {
		addr, err := netlink.ParseAddr(at.String())
		if err != nil {
			return err
		}
		return netlink.AddrDel(dev, addr)
	})
	if err != nil {
		return fmt.Errorf("remove address %v from %v: %w", at, p, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addrs = slices.DeleteFunc(p.addrs, func(a netip.Prefix) bool { return a == at })
	return nil
}

// Remove removes the port, and its device from the host.
func (p *Port) Remove() error {
	u := p.net.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := p.remove(); err != nil {
		return fmt.Errorf("remove %v: %w", p, err)
	}
	p.net.ports[p.number] = nil
	p.node.ports = slices.DeleteFunc(p.node.ports, func(other *Port) bool { return other == p })
	return u.route()
}

// remove removes what is there of the port.
func (p *Port) remove() error {
	var errs []error
	if p.line != nil {
		errs = append(errs, p.line.close())
	}
	err := p.net.ns.Do(func() error {
		dev, err := netlink.LinkByName(p.outer)
		if missing(err) {
			return nil // it went with the host
		}
		if err != nil {
			return err
		}
		if err := netlink.LinkDel(dev); !errors.Is(err, unix.ENODEV) {
			return err
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}
