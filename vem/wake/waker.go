package wake

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Waker is who could wake an app by traffic.
type Waker int

// The kinds, from the weakest.
const (
	Nobody  Waker = iota // nothing
	Peers                // connections to others, and nothing by which new ones could come
	Anybody              // a listener or an unconnected datagram socket that others reach
)

// Strongest tells whose traffic on a held set could ever wake the app. own are the app's
// addresses in its network namespace: what only the app itself reaches does not count,
// for it sleeps too. Nor does a datagram socket that is connected: it mostly waits for
// the answer to one datagram, which may get lost, and then only the app's own timer
// could go on.
func Strongest(s *hold.Set, policy Policy, own []netip.Addr) Waker {
	best := Nobody
	if policy.Mode == Never {
		return best
	}
	for i := range s.Sockets {
		best = max(best, wakerOf(&s.Sockets[i], policy, own))
	}
	return best
}

func wakerOf(s *hold.Socket, policy Policy, own []netip.Addr) Waker {
	inside := func(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(own, a.Unmap().WithZone("")) }
	connected := s.Remote.IsValid() && s.Remote.Port() != 0
	switch s.Kind {
	case hold.TCPListen:
		if !s.Local.Addr().IsLoopback() {
			return Anybody
		}
	case hold.TCP:
		ended := slices.Contains([]string{closedState, sockdiag.CloseWait.String(), sockdiag.LastAck.String()}, s.State)
		if connected && !ended && !inside(s.Remote.Addr()) && !policy.Ignores(s.Remote.Addr()) {
			return Peers
		}
	case hold.UDP:
		if !connected && s.Local.Port() != 0 && !s.Local.Addr().IsLoopback() {
			return Anybody
		}
	case hold.UnixListen:
		return Anybody
	case hold.Unix:
		if s.Inside {
			return Nobody
		}
		if s.Path != "" && s.Type == unix.SOCK_DGRAM {
			return Anybody
		}
		return Peers
	case hold.Ping, hold.Raw:
		return Peers
	case hold.Other, hold.Netlink, hold.Packet, hold.Eventfd, hold.Inotify, hold.Mqueue, hold.File: // traffic does not wake by it
	}
	return Nobody
}
