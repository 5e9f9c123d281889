package fabric

import (
	"net/netip"

	"github.com/snapctl/snapctl/vem/netconf"
)

// Standard is what the network namespace of an app has that snapctl made. The addresses are those
// by which the app knows itself; six may be none.
func Standard(four, six netip.Addr) netconf.Standard {
	s := netconf.Standard{Device: AppDevice, Sysctls: make(map[string]string, len(appSysctls))}
	for _, c := range appSysctls {
		s.Sysctls[c.path] = c.value
	}
	gateways := []netip.Addr{nextHop4, nextHop6}
	for i, addr := range []netip.Addr{four, six} {
		if addr.IsValid() {
			s.Addresses = append(s.Addresses, addr)
			s.Gateways = append(s.Gateways, gateways[i])
		}
	}
	return s
}
