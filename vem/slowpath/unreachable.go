package slowpath

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/snapctl/snapctl/vem/netns"
)

// How much of the packet an ICMP error quotes: as much as fits into a message of 576 bytes
// (RFC 1812, 4.3.2.3) or of 1280 (RFC 4443, 3.1), whose own headers take 28 and 48 of them.
const (
	quote4 = 576 - 28
	quote6 = 1280 - 48
)

// unreachable builds the ICMP error that tells the sender of a packet that its destination can't
// be reached. The checksum of an ICMPv6 one is left to the kernel (RFC 3542, 3.1).
func unreachable(p packet) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 1} // host unreachable
	quote := p.ip[:min(len(p.ip), quote4)]
	if p.source.Is6() {
		m = icmp.Message{Type: ipv6.ICMPTypeDestinationUnreachable, Code: 3} // address unreachable
		quote = p.ip[:min(len(p.ip), quote6)]
	}
	m.Body = &icmp.DstUnreach{Data: quote}
	return m.Marshal(nil)
}

// How many ICMP errors are sent: RFC 1812, 4.3.2.8, and RFC 4443, 2.4 (f), ask for a limit and
// recommend token buckets. That of one sender lets a program that tries many addresses fail as
// fast as it asks; the kernel's own (1 a second and a burst of 6, net/ipv4/icmp.c) does not.
const (
	senderRate, senderBurst = 50, 100
	totalRate, totalBurst   = 1000, 1000
	maxSenders              = 1024
)

// quota decides which ICMP errors are sent. Its memory is bounded.
type quota struct {
	mu      sync.Mutex
	total   *rate.Limiter
	senders map[netip.Addr]*rate.Limiter
}

func newQuota() *quota {
	return &quota{total: rate.NewLimiter(totalRate, totalBurst), senders: map[netip.Addr]*rate.Limiter{}}
}

// allow tells whether one more may be sent to a sender.
func (q *quota) allow(sender netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.senders[sender]
	if l == nil {
		if len(q.senders) >= maxSenders && !q.tidy() {
			return false
		}
		l = rate.NewLimiter(senderRate, senderBurst)
		q.senders[sender] = l
	}
	return l.Allow() && q.total.Allow()
}

// tidy drops senders that have had none for so long that their buckets are full again. It returns
// false if there are none.
func (q *quota) tidy() bool {
	for a, l := range q.senders {
		if l.Tokens() >= senderBurst {
			delete(q.senders, a)
		}
	}
	return len(q.senders) < maxSenders
}

// herald sends ICMP errors by raw sockets in the fabric. These need no address of the device, and
// the kernel chooses source and route as for its own errors. It has no limit for raw sockets.
type herald struct {
	quota  *quota
	count  *counters
	v4, v6 int // -1: no such socket
}

// openHerald opens the sockets for the families of the prefixes. Needs CAP_NET_RAW.
func openHerald(ns *netns.NS, prefixes []netip.Prefix) (*herald, error) {
	h := &herald{quota: newQuota(), v4: -1, v6: -1}
	err := ns.Do(func() (err error) {
		for _, p := range prefixes {
			switch {
			case p.Addr().Is4() && h.v4 < 0:
				h.v4, err = sendOnly(unix.AF_INET, unix.IPPROTO_ICMP)
			case p.Addr().Is6() && h.v6 < 0:
				h.v6, err = sendOnly(unix.AF_INET6, unix.IPPROTO_ICMPV6)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open socket for ICMP errors: %w", err), h.close())
	}
	return h, nil
}

// sendOnly opens a raw socket that receives nothing.
func sendOnly(family, protocol int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, err
	}
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}} // return 0
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// refuse tells the sender of a frame's packet that there is no way, if it is to be told. What
// can't be sent is not sent: an ICMP error is a courtesy.
func (h *herald) refuse(raw []byte) {
	p, ok := parse(raw)
	if !ok || !p.answerable() {
		return
	}
	if !h.quota.allow(p.source) {
		h.count.silent.Add(1)
		return
	}
	m, err := unreachable(p)
	if err != nil {
		return
	}
	if p.source.Is4() {
		err = unix.Sendto(h.v4, m, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: p.source.As4()})
	} else {
		err = unix.Sendto(h.v6, m, unix.MSG_DONTWAIT, &unix.SockaddrInet6{Addr: p.source.As16()})
	}
	if err != nil {
		h.count.silent.Add(1)
		return
	}
	h.count.unreachable.Add(1)
}

func (h *herald) close() error {
	var errs []error
	for _, fd := range []*int{&h.v4, &h.v6} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}
