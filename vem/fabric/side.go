package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// side is one network namespace and a netlink socket in it.
type side struct {
	ns *netns.NS
	nl *netlink.Handle
}

// openSide takes its own handle of ns.
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
		return nil, errors.Join(err, own.Close())
	}
	return s, nil
}

func (s *side) net() tcx.Net { return tcx.Net{NL: s.nl, Do: s.ns.Do} }

func (s *side) close() error {
	if s == nil {
		return nil
	}
	s.nl.Close()
	return s.ns.Close()
}

// up brings a device up.
func (s *side) up(name string) error {
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set device %s up: %w", name, err)
	}
	return nil
}

// addr gives a device an address, without duplicate address detection: the
// directory, not the link, decides who has an address.
func (s *side) addr(link netlink.Link, a netip.Addr) error {
	err := s.nl.AddrReplace(link, &netlink.Addr{IPNet: ipNet(single(a)), Flags: unix.IFA_F_NODAD})
	if err != nil {
		return fmt.Errorf("set address %s on %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

// neigh adds a permanent neighbour: no ARP, no discovery, no expiry.
func (s *side) neigh(link int, a netip.Addr, mac net.HardwareAddr) error {
	err := s.nl.NeighSet(&netlink.Neigh{
		LinkIndex: link, Family: family(a), State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", a, err)
	}
	return nil
}

// route adds a route or changes the one that is there.
func (s *side) route(r netlink.Route) error {
	if err := s.nl.RouteReplace(&r); err != nil {
		return fmt.Errorf("set route %s: %w", r.Dst, err)
	}
	return nil
}

// removeVeths deletes every veth device, and with them their other ends.
func (s *side) removeVeths() error {
	links, err := netlist.Links(s.nl)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		if l.Type() == "veth" {
			errs = append(errs, s.removeLink(l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}

// removeLink deletes a device; nil if there is none.
func (s *side) removeLink(name string) error {
	link, err := s.link(name)
	if err != nil || link == nil {
		return err
	}
	err = s.nl.LinkDel(link)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %s: %w", name, err)
	}
	return nil
}

// link finds a device by name; nil if there is none.
func (s *side) link(name string) (netlink.Link, error) {
	link, err := s.nl.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", name, err)
	}
	return link, nil
}

// sysctl is one setting. Optional ones may be unknown to the kernel.
type sysctl struct {
	path  string // below /proc/sys/net, with slashes
	value string
	kind  sysctlKind
}

type sysctlKind int

const (
	required sysctlKind = iota
	optional
)

func (s *side) set(settings ...sysctl) error {
	return s.ns.Do(func() error { return writeSysctls(settings) })
}

// setDiffering is set, but it writes only what differs. To write some of them, such as disable_ipv6,
// the kernel wants its lock of all devices. It does not wait for it, but has the call made again and
// again until the lock is free (net/ipv6/addrconf.c, addrconf_disable_ipv6: restart_syscall). Where
// several apps are attached at a time, that takes milliseconds of a processor for each.
func (s *side) setDiffering(settings ...sysctl) error {
	return s.ns.Do(func() error { return writeSysctls(slices.DeleteFunc(slices.Clone(settings), sysctl.isSet)) })
}

// isSet tells, inside the namespace, whether nothing is to be written. To write one of conf/all
// may also change the one of conf/default and those of devices, so both have to be as they should.
func (c sysctl) isSet() bool {
	return netns.HasSysctl(c.path, c.value) && (!strings.Contains(c.path, "/all/") || netns.HasSysctl(strings.Replace(c.path, "/all/", "/default/", 1), c.value))
}

// writeSysctls runs inside the namespace.
func writeSysctls(settings []sysctl) error {
	for _, c := range settings {
		err := netns.WriteSysctl(c.path, c.value)
		if errors.Is(err, fs.ErrNotExist) && c.kind == optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("set sysctl net/%s to %s: %w", c.path, c.value, err)
		}
	}
	return nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
