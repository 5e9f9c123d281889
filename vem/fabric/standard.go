package fabric

import (
	"net/netip"
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
