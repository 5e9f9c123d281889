package fabric

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// veth describes a pair: near in the fabric, far in an app or the host.
type veth struct {
	name string
	mac  net.HardwareAddr
	mtu  int
	far  struct {
		name string
		mac  net.HardwareAddr
	}
}

// pair is the two ends of a veth as they are now.
type pair struct{ near, far netlink.Link }

// findVeth returns the pair if both ends are where they belong. It returns an
// error wrapping ErrAttached if the near end's other end is elsewhere, or the far
// name is taken; nil if neither end exists.
func findVeth(near, far *side, want veth) (*pair, error) {
	n, err := near.link(want.name)
	if err != nil {
		return nil, err
	}
	f, err := far.link(want.far.name)
	if err != nil {
		return nil, err
	}
	switch {
	case n == nil && f == nil:
		return nil, nil
	case n == nil:
		return nil, fmt.Errorf("%w: the namespace has a device %s of its own", ErrAttached, want.far.name)
	case f == nil:
		return nil, fmt.Errorf("%w: %s leads to another namespace", ErrAttached, want.name)
	}
	// IFLA_LINK and IFLA_LINK_NETNSID of a veth name its other end exactly.
	id, err := near.nl.GetNetNsIdByFd(int(far.ns.File().Fd()))
	if err != nil {
		return nil, fmt.Errorf("find namespace id: %w", err)
	}
	na := n.Attrs()
	if n.Type() != "veth" || na.NetNsID != id || na.ParentIndex != f.Attrs().Index {
		return nil, fmt.Errorf("%w: %s leads to another namespace, and the namespace has a device %s of its own", ErrAttached, want.name, want.far.name)
	}
	return &pair{n, f}, nil
}

// makeVeth makes both ends in their namespaces in one kernel request, so that no
// half of it can be left behind.
func makeVeth(near, far *side, want veth) (*pair, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = want.name, want.mac, want.mtu
	// The default is one queue per possible CPU, of which a veth uses one.
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerHardwareAddr = want.far.name, want.far.mac
	v.PeerNamespace = netlink.NsFd(far.ns.File().Fd())
	if err := near.nl.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("make veth %s: %w", want.name, err)
	}
	p, err := findVeth(near, far, want)
	if err == nil && p == nil {
		err = fmt.Errorf("make veth %s: %w", want.name, unix.ENODEV)
	}
	if err != nil {
		return nil, errors.Join(err, near.removeLink(want.name))
	}
	return p, nil
}

// setMTU gives both ends the MTU if they have another one.
func (p *pair) setMTU(near, far *side, mtu int) error {
	for _, end := range []struct {
		s    *side
		link netlink.Link
	}{{near, p.near}, {far, p.far}} {
		if end.link.Attrs().MTU != mtu {
			if err := end.s.nl.LinkSetMTU(end.link, mtu); err != nil {
				return fmt.Errorf("set MTU of %s: %w", end.link.Attrs().Name, err)
			}
		}
	}
	return nil
}
