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
	for _, end := range p.ends(near, far) {
		if end.link.Attrs().MTU != mtu {
			if err := end.nl.LinkSetMTU(end.link, mtu); err != nil {
				return fmt.Errorf("set MTU of %s: %w", end.link.Attrs().Name, err)
			}
		}
	}
	return nil
}

// up brings both ends up and returns when both can send.
//
// A veth end has a carrier once both are up, and a device without one has no queue:
// what it is given to send is lost. The end that came up first gets its queue from a
// work item some time after the carrier (net/core/link_watch.c, seen to take
// milliseconds on a busy machine), and an app's first packet would then be lost and
// sent again a second later. Replacing the root qdisc by what it is anyway
// (noqueue, a veth's default) does it at once: qdisc_graft calls dev_activate.
func (p *pair) up(near, far *side) error {
	active := true
	for _, end := range p.ends(near, far) {
		attrs := end.link.Attrs()
		active = active && attrs.OperState == netlink.OperUp
		if err := end.nl.LinkSetUp(end.link); err != nil {
			return fmt.Errorf("set device %s up: %w", attrs.Name, err)
		}
	}
	if active {
		return nil // replacing it under traffic would lose packets
	}
	for _, end := range p.ends(near, far) {
		attrs := end.link.Attrs()
		err := end.nl.QdiscReplace(&netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: attrs.Index, Parent: netlink.HANDLE_ROOT}, QdiscType: "noqueue",
		})
		if err != nil {
			return fmt.Errorf("activate device %s: %w", attrs.Name, err)
		}
	}
	return nil
}

// end is one end of a pair, with the netlink socket of its namespace.
type end struct {
	nl   *netlink.Handle
	link netlink.Link
}

func (p *pair) ends(near, far *side) []end { return []end{{near.nl, p.near}, {far.nl, p.far}} }
