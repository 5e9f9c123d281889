package installation

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
)

// addresses are those of this host's network devices at which others may reach it: not those of
// its virtual networks.
func addresses() ([]membership.Address, error) {
	var list []membership.Address
	err := eachAddress(func(device string, p netip.Prefix) {
		a := p.Addr()
		if a.IsGlobalUnicast() && !strings.HasPrefix(device, "snap-") {
			list = append(list, membership.Address{Addr: a, Device: device})
		}
	})
	return list, err
}

// underlay is where channels may begin: each of these addresses with its device and link.
func underlay(list []membership.Address) (found []mesh.Underlay) {
	links := make(map[netip.Addr]mesh.Underlay)
	_ = eachAddress(func(device string, p netip.Prefix) { // what can't be read has no link
		links[p.Addr()] = mesh.Underlay{Device: device, Prefix: p}
	})
	for _, a := range list {
		if u, ok := links[a.Addr]; ok && (a.Device == "" || a.Device == u.Device) {
			found = append(found, u)
		}
	}
	return found
}

// eachAddress calls fn with all addresses of devices that are up.
func eachAddress(fn func(device string, p netip.Prefix)) error {
	devices, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, d := range devices {
		if d.Flags&net.FlagUp == 0 || d.Flags&net.FlagLoopback != 0 {
			continue
		}
		all, err := d.Addrs()
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", d.Name, err)
		}
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				fn(d.Name, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()))
			}
		}
	}
	return nil
}
