package fabric

import (
	"net/netip"

	"github.com/snapctl/snapctl/vem/netconf"
)

// Gateways are where the default routes of every app's namespace lead.
func Gateways() []netip.Addr { return []netip.Addr{nextHop4, nextHop6} }

// AppSysctls are those that Attach sets in an app's namespace, by their paths below
// /proc/sys/net.
func AppSysctls() map[string]string {
	m := make(map[string]string, len(appSysctls))
	for _, c := range appSysctls {
		m[c.path] = c.value
	}
	return m
}

// Standard is what the network namespace of an app has that snapctl made. The addresses are those
// by which the app knows itself; six may be none.
func Standard(four, six netip.Addr) netconf.Standard {
	s := netconf.Standard{Device: AppDevice, Sysctls: AppSysctls()}
	for i, addr := range []netip.Addr{four, six} {
		if addr.IsValid() {
			s.Addresses = append(s.Addresses, addr)
			s.Gateways = append(s.Gateways, Gateways()[i])
		}
	}
	return s
}
