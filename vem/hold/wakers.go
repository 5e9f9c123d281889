package hold

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Wakers is what an app has that traffic could wake it by.
type Wakers int

// The kinds, from the weakest.
const (
	Nobody  Wakers = iota // nothing
	Peers                 // connections to others, and nothing by which new ones could come
	Anybody               // a listener or an unconnected datagram socket that others reach
)

// Wakers tells by what traffic on the set could ever wake the app. own are the app's
// addresses in its network namespace: what only the app itself reaches does not count,
// for it sleeps too. Nor does a datagram socket that is connected: it mostly waits for
// the answer to one datagram, which may get lost, and then only the app's own timer
// could go on.
func (s *Set) Wakers(policy WakePolicy, own []netip.Addr) Wakers {
	best := Nobody
	if policy.Mode == Never {
		return best
	}
	for i := range s.Sockets {
		best = max(best, s.Sockets[i].wakers(policy, own))
	}
	return best
}

func (s *Socket) wakers(policy WakePolicy, own []netip.Addr) Wakers {
	inside := func(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(own, a.Unmap().WithZone("")) }
	connected := s.Remote.IsValid() && s.Remote.Port() != 0
	switch s.Kind {
	case TCPListen:
		if !s.Local.Addr().IsLoopback() {
			return Anybody
		}
	case TCP:
		ended := slices.Contains([]string{closedState, sockdiag.CloseWait.String(), sockdiag.LastAck.String()}, s.State)
		if connected && !ended && !inside(s.Remote.Addr()) && !policy.Ignores(s.Remote.Addr()) {
			return Peers
		}
	case UDP:
		if !connected && s.Local.Port() != 0 && !s.Local.Addr().IsLoopback() {
			return Anybody
		}
	case UnixListen:
		return Anybody
	case Unix:
		if s.Inside {
			return Nobody
		}
		if s.Path != "" && s.Type == unix.SOCK_DGRAM {
			return Anybody
		}
		return Peers
	case Ping, Raw:
		return Peers
	case Other, Netlink, Packet, Eventfd, Inotify, Mqueue, File: // traffic does not wake by it
	}
	return Nobody
}
