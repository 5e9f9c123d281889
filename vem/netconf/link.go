package netconf

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Link is a network device of the program's own, or what it has changed of another one.
type Link struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // dummy, bridge, veth, vlan; empty if it is there already
	// Peer is the other end of a veth; Parent the device of a vlan, whose number is VLAN.
	Peer   string `json:"peer,omitempty"`
	Parent string `json:"parent,omitempty"`
	VLAN   int    `json:"vlan,omitempty"`
	Master string `json:"master,omitempty"` // the bridge that it is a port of
	MTU    int    `json:"mtu"`
	MAC    []byte `json:"mac,omitempty"`
	Up     bool   `json:"up"`
}

// readLinks reads the devices.
func (r *reading) readLinks() error {
	links, err := netlist.Links(netlist.Here())
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	r.settings.Devices = names
	for _, l := range links {
		a := l.Attrs()
		mine := Link{Name: a.Name, Kind: l.Type(), MTU: a.MTU, MAC: a.HardwareAddr, Up: a.Flags&net.FlagUp != 0, Master: names[a.MasterIndex]}
		switch {
		case a.Name == r.standard.Device || r.fresh[a.Name]:
			// The fabric sees to eth0, and lo is up in every app.
			if a.Name == "lo" && !mine.Up {
				r.settings.Links = append(r.settings.Links, Link{Name: a.Name, MTU: a.MTU})
			}
			if a.MasterIndex != 0 {
				r.miss("network device %s as part of %s", a.Name, mine.Master)
			}
			continue
		case l.Type() == "veth" && a.NetNsID < 0 && names[a.ParentIndex] != "":
			mine.Peer = names[a.ParentIndex]
		case l.Type() == "vlan" && names[a.ParentIndex] != "":
			if v, ok := l.(*netlink.Vlan); ok {
				mine.Parent, mine.VLAN = names[a.ParentIndex], v.VlanId
			}
		case l.Type() != "dummy" && l.Type() != "bridge":
			r.lost[a.Name] = true
			r.missing = append(r.missing, Missing{What: fmt.Sprintf("network device %s (%s)", a.Name, l.Type()), Device: a.Name})
			continue
		}
		r.settings.Links = append(r.settings.Links, mine)
	}
	// A device is made after what it is part of.
	slices.SortStableFunc(r.settings.Links, func(a, b Link) int { return linkOrder(a) - linkOrder(b) })
	return nil
}

func linkOrder(l Link) int {
	return slices.Index([]string{"", "bridge", "dummy", "veth", "vlan"}, l.Kind)
}

// applyLinks makes the devices that are not there, and then connects them and sets them
// up.
func applyLinks(list []Link) []error {
	var errs []error
	fail := func(l Link, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("network device %s (%s): %w", l.Name, l.Kind, err))
		}
	}
	for _, l := range list {
		if l.Kind != "" {
			fail(l, l.make())
		}
	}
	for _, l := range list {
		fail(l, l.settle())
	}
	return errs
}

func (l *Link) make() error {
	if _, err := netlink.LinkByName(l.Name); err == nil {
		return nil // the other end of a veth, or made already
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = l.Name, l.MTU, l.MAC
	switch l.Kind {
	case "dummy":
		return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	case "bridge":
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	case "veth":
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: l.Peer})
	case "vlan":
		parent, err := netlink.LinkByName(l.Parent)
		if err != nil {
			return err
		}
		attrs.ParentIndex = parent.Attrs().Index
		return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: l.VLAN})
	}
	return unix.EOPNOTSUPP
}

// settle gives a device what it has besides its kind.
func (l *Link) settle() error {
	link, err := netlink.LinkByName(l.Name)
	if err != nil {
		return err
	}
	a := link.Attrs()
	if len(l.MAC) > 0 && !slices.Equal(l.MAC, a.HardwareAddr) {
		err = netlink.LinkSetHardwareAddr(link, l.MAC)
	}
	if l.MTU != a.MTU {
		err = errors.Join(err, netlink.LinkSetMTU(link, l.MTU))
	}
	if l.Master != "" {
		master, merr := netlink.LinkByName(l.Master)
		if merr == nil {
			merr = netlink.LinkSetMaster(link, master)
		}
		err = errors.Join(err, merr)
	}
	switch {
	case l.Up:
		err = errors.Join(err, netlink.LinkSetUp(link))
	case a.Flags&net.FlagUp != 0:
		err = errors.Join(err, netlink.LinkSetDown(link))
	}
	return err
}
