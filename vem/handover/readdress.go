package handover

import (
	"fmt"
	"net/netip"
)

// Readdress has peers that are at the addresses of a map be at others: those at which the other host's network knows
// them. It is for sockets that are going to be made, before [Restore] or [Resume].
func (s *Saved) Readdress(to map[netip.Addr]netip.Addr) {
	if len(to) == 0 {
		return
	}
	change := func(a *netip.AddrPort) {
		b, ok := to[a.Addr().Unmap()]
		if !ok {
			return
		}
		if a.Addr().Is4In6() {
			b = netip.AddrFrom16(b.As16())
		}
		*a = netip.AddrPortFrom(b, a.Port())
	}
	for i := range s.Connections {
		if ends := s.Connections[i].Ends; len(ends) == 1 { // else the app is its own peer
			change(&ends[0].Remote)
		}
	}
	for i := range s.Waiting {
		change(&s.Waiting[i].State.Remote)
	}
	for i := range s.Others {
		o := &s.Others[i]
		change(&o.Remote)
		for j := range o.Queue {
			change(&o.Queue[j].From)
		}
	}
	for i := range s.Sockets {
		change(&s.Sockets[i].Remote)
	}
}

// Beyond names the connections whose peers are at addresses that follow says no to. They are made all the same.
func (s *Saved) Beyond(follow func(netip.Addr) bool) (list []string) {
	for i := range s.Connections {
		if ends := s.Connections[i].Ends; len(ends) == 1 && !follow(ends[0].Remote.Addr()) {
			list = append(list, fmt.Sprintf("tcp %s to %s", ends[0].Local, ends[0].Remote))
		}
	}
	return list
}
