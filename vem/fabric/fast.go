package fabric

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/netlist"
)

// setupFastPath lets the fabric's devices use a new table instead of an earlier
// run's. Where it is not supported, the kernel's routes do all the work.
func (f *Fabric) setupFastPath() error {
	if f.cfg.Plain {
		f.fastPath = fmt.Errorf("%w: it is not wanted", fastpath.ErrUnsupported)
		return nil
	}
	table, err := fastpath.New(f.in.net(), f.uplink)
	if err == nil {
		err = f.fill(table)
		if err != nil {
			err = errors.Join(err, table.Close())
		}
	}
	switch {
	case errors.Is(err, fastpath.ErrUnsupported):
		f.fastPath = err
	case err != nil:
		return err
	default:
		f.fast = table
	}
	return nil
}

// fill enters all single addresses that the fabric has a route to, and installs
// the table on their devices.
func (f *Fabric) fill(table *fastpath.Table) error {
	links, err := netlist.Links(f.in.nl)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	inside := map[int]mapping{}
	for _, l := range links {
		inside[l.Attrs().Index] = parseMapping(l.Attrs().Alias)
	}
	devices := map[int]struct{}{}
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlist.Routes(f.in.nl, fam, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			a, ok := hostRoute(r)
			if !ok || !f.contains(a) {
				continue
			}
			m := inside[r.LinkIndex]
			in := m.inside(a)
			if r.LinkIndex == f.uplink {
				in = f.gateway(a)
			}
			if err := table.Put(a, in, r.LinkIndex, m.kind()); err != nil {
				return err
			}
			devices[r.LinkIndex] = struct{}{}
		}
	}
	for index := range devices {
		kind := inside[index].kind()
		if index == f.uplink {
			kind = fastpath.Uplink
		}
		if err := table.Install(f.in.net(), index, kind); err != nil {
			return err
		}
	}
	return f.passOn(table, SlowDevice)
}

// hostRoute returns the address of a route to a single one.
func hostRoute(r netlink.Route) (netip.Addr, bool) {
	if r.Dst == nil || r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST {
		return netip.Addr{}, false
	}
	ones, bits := r.Dst.Mask.Size()
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	return a.Unmap(), ok && ones == bits
}

func (f *Fabric) contains(a netip.Addr) bool {
	return f.cfg.Prefix4.Contains(a) || f.cfg.Prefix6.Contains(a)
}

// shorten adds an endpoint to the fast path, and translates its addresses.
func (f *Fabric) shorten(ep Endpoint, device int) error {
	if f.fast == nil {
		return nil
	}
	kind := ep.mapping().kind()
	var here []netip.Addr
	for _, hop := range hops(ep) {
		if err := f.fast.Put(hop.outside, hop.inside, device, kind); err != nil {
			return err
		}
		here = append(here, hop.outside)
	}
	// One that has come from another host leaves a route to there, which after a restart nobody may know of.
	if r := f.fast.Remotes(); r != nil {
		if err := r.RemoveRoutes(here); err != nil {
			return err
		}
	}
	return f.fast.Install(f.in.net(), device, kind)
}

// lengthen takes an endpoint and all addresses behind its device, which may be nil,
// off the fast path.
func (f *Fabric) lengthen(dev netlink.Link, ep Endpoint) error {
	if f.fast == nil {
		return nil
	}
	var list []netip.Addr
	for _, hop := range hops(ep) {
		list = append(list, hop.outside)
	}
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		if dev == nil {
			break // and RouteList would list everybody's
		}
		routes, err := netlist.Routes(f.in.nl, fam, &netlink.Route{LinkIndex: dev.Attrs().Index}, netlink.RT_FILTER_OIF)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if a, ok := hostRoute(r); ok {
				list = append(list, a)
			}
		}
	}
	for _, a := range list {
		if err := f.fast.Remove(a); err != nil {
			return err
		}
	}
	return nil
}

// gateway returns the host's address of a family.
func (f *Fabric) gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return f.cfg.space().Gateway4()
	}
	return f.cfg.space().Gateway6()
}
