package slowpath

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netlist"
)

// metric is that of the slow path's routes: any other route of a prefix goes before them, but for
// the fabric's own "unreachable", whose metric is one higher.
const metric = math.MaxInt32 - 1

// setUp gives the device all that it needs before there are routes to it.
func (d *device) setUp(o Options) error {
	link, err := d.nl.LinkByIndex(d.index)
	if err != nil {
		return fmt.Errorf("find device %s: %w", fabric.SlowDevice, err)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"hardware address", func() error { return d.nl.LinkSetHardwareAddr(link, deviceMAC) }},
		{"MTU", func() error { return d.nl.LinkSetMTU(link, o.MTU) }},
		{"queue length", func() error { return d.nl.LinkSetTxQLen(link, queueLen) }},
		{"settings", func() error { return d.ns.Do(func() error { return writeSysctls(o.Prefixes, d.made) }) }},
		{"state", func() error { return d.nl.LinkSetUp(link) }},
		// A device whose queue was opened again gets a carrier at once, but a work item makes it
		// send some time after (net/core/link_watch.c), and until then it drops everything. To
		// replace its qdisc makes it send now (qdisc_graft calls dev_activate). With none there
		// is one queue, in the order of arrival, and not two.
		{"queueing discipline", func() error {
			return d.nl.QdiscReplace(&netlink.GenericQdisc{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: d.index, Parent: netlink.HANDLE_ROOT}, QdiscType: "noqueue",
			})
		}},
		{"IPv6", func() error { return d.ns.Do(func() error { return enableIPv6(o.Prefixes) }) }},
		{"next hops", func() error { return d.neighbours(o.Prefixes) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("set %s of %s: %w", step.what, fabric.SlowDevice, err)
		}
	}
	return nil
}

// writeSysctls runs inside the namespace.
//
//   - rp_filter 0: packets that are written back come from elsewhere. They were checked where they
//     came from first. (Measured with 1: all of them are dropped, without a trace.)
//   - addr_gen_mode 1, accept_dad 0, accept_ra 0: no traffic of the kernel's own.
//   - disable_ipv6 1, until the device sends: what the kernel tells others all the same, that it is in
//     multicast groups (net/ipv6/mcast.c), would be dropped, and be taken for a packet of somebody.
func writeSysctls(prefixes []netip.Prefix, made bool) error {
	list := [][2]string{{"ipv4/conf/" + fabric.SlowDevice + "/rp_filter", "0"}}
	if has6(prefixes) {
		dir := "ipv6/conf/" + fabric.SlowDevice + "/"
		list = append(list, [2]string{dir + "addr_gen_mode", "1"}, [2]string{dir + "accept_dad", "0"}, [2]string{dir + "accept_ra", "0"})
		if made {
			list = append(list, [2]string{dir + "disable_ipv6", "1"})
		}
	}
	return write(list...)
}

// enableIPv6 changes nothing on a device that an earlier process has set up.
func enableIPv6(prefixes []netip.Prefix) error {
	if !has6(prefixes) {
		return nil
	}
	return write([2]string{"ipv6/conf/" + fabric.SlowDevice + "/disable_ipv6", "0"})
}

func has6(prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

func write(list ...[2]string) error {
	for _, s := range list {
		if err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0); err != nil {
			return err
		}
	}
	return nil
}

func (d *device) neighbours(prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		err := d.nl.NeighSet(&netlink.Neigh{
			LinkIndex: d.index, Family: family(p.Addr()), State: netlink.NUD_PERMANENT,
			IP: nextHop(p.Addr()).AsSlice(), HardwareAddr: nextMAC,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// route leads what has no way to the device. It touches no route of anybody else.
func (d *device) route(prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		r := netlink.Route{
			LinkIndex: d.index, Dst: ipNet(p), Gw: nextHop(p.Addr()).AsSlice(),
			Flags: int(netlink.FLAG_ONLINK), Priority: metric,
		}
		have, err := netlist.Routes(d.nl, family(p.Addr()), &r, netlink.RT_FILTER_DST)
		if err != nil {
			return fmt.Errorf("list routes to %s: %w", p, err)
		}
		for _, h := range have {
			if h.Priority == metric && h.LinkIndex != d.index {
				return fmt.Errorf("%w: route %s", ErrForeign, h)
			}
		}
		if err := d.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("set route %s: %w", p, err)
		}
	}
	return nil
}

func nextHop(a netip.Addr) netip.Addr {
	if a.Is4() {
		return nextHop4
	}
	return nextHop6
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
