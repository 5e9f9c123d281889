package overview

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Namespace is a network namespace to send from; *netns.NS is one.
type Namespace interface {
	// Do runs fn on a thread inside the namespace.
	Do(fn func() error) error
}

// TooBigError is a packet that the way has no room for, which its sender was told.
type TooBigError struct{ MTU int } // bytes

func (e *TooBigError) Error() string { return fmt.Sprintf("there is room for %d bytes", e.MTU) }

// resend is how long an echo waits for its answer before it is sent again.
const resend = time.Second

const (
	icmpHeader = 8
	smallData  = 56 // bytes, as ping(8)

	maxIPHeader = 60 // of IPv4 with options
)

// Echo sends an ICMP echo request (RFC 792, RFC 4443) from a namespace, and waits for the answer
// until ctx ends. What is lost is sent again each second. It returns how long the one took that
// was answered, or a *[TooBigError] for a full-size packet.
//
// Needs CAP_NET_RAW over the namespace, and CAP_SYS_ADMIN to enter it.
func Echo(ctx context.Context, ns Namespace, to netip.Addr, size Size) (time.Duration, error) {
	e := &echo{to: to, id: rand.IntN(1 << 16)}
	if err := ns.Do(func() error { return e.open(ctx, size) }); err != nil {
		return 0, fmt.Errorf("open a socket for ICMP: %w", err)
	}
	defer e.conn.Close() //nolint:errcheck // nothing was written that could be lost
	stop := context.AfterFunc(ctx, func() { _ = e.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		took, err := e.try(ctx)
		switch {
		case err == nil:
			return took, nil
		case ctx.Err() != nil:
			return 0, errors.New("no answer in time")
		case errors.Is(err, unix.EMSGSIZE):
			return 0, &TooBigError{MTU: e.room()}
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		}
	}
}

// echo is a socket, and what was sent by it.
type echo struct {
	conn *net.IPConn
	to   netip.Addr
	id   int
	data int         // bytes
	sent []time.Time // by sequence number
}

// open opens the socket. The caller is in the namespace.
func (e *echo) open(ctx context.Context, size Size) error {
	network, header := "ip4:icmp", ipv4.HeaderLen
	if e.to.Is6() {
		network, header = "ip6:ipv6-icmp", ipv6.HeaderLen
	}
	e.data = smallData
	var d net.Dialer
	if size == Full {
		mtu, err := deviceMTU()
		if err != nil {
			return err
		}
		e.data, d.Control = mtu-header-icmpHeader, e.dontFragment
	}
	c, err := d.DialContext(ctx, network, e.to.String())
	if err != nil {
		return err
	}
	conn, ok := c.(*net.IPConn)
	if !ok {
		return errors.Join(fmt.Errorf("a socket of type %T", c), c.Close())
	}
	e.conn = conn
	return nil
}

// deviceMTU is the MTU of an app's network device. The caller is in the namespace.
func deviceMTU() (int, error) {
	all, err := netlist.Links(netlist.Here())
	if err != nil {
		return 0, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range all {
		if d := l.Attrs(); d.Flags&net.FlagLoopback == 0 && d.Flags&net.FlagUp != 0 {
			return d.MTU, nil
		}
	}
	return 0, errors.New("the app has no network device")
}

// dontFragment has a socket's packets not be fragmented (IP_MTU_DISCOVER in ip(7), ipv6(7)).
func (e *echo) dontFragment(_, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		if e.to.Is6() {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			return
		}
		serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
	return errors.Join(err, serr)
}

// room is what the kernel has learned of the way's MTU; 0 if that can't be read.
func (e *echo) room() (mtu int) {
	c, err := e.conn.SyscallConn()
	if err != nil {
		return 0
	}
	//nolint:errcheck // then it is not known
	c.Control(func(fd uintptr) {
		if e.to.Is6() {
			mtu, _ = unix.GetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MTU)
			return
		}
		mtu, _ = unix.GetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU)
	})
	return mtu
}

// try sends one more echo, and waits for an answer to any of them.
func (e *echo) try(ctx context.Context) (time.Duration, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: e.id, Seq: len(e.sent), Data: make([]byte, e.data)}}
	answer, proto := icmp.Type(ipv4.ICMPTypeEchoReply), unix.IPPROTO_ICMP
	if e.to.Is6() {
		m.Type, answer, proto = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, unix.IPPROTO_ICMPV6
	}
	raw, err := m.Marshal(nil) // the kernel fills in the checksum of ICMPv6 (RFC 3542, 3.1)
	if err != nil {
		return 0, err
	}
	if err := e.conn.SetDeadline(time.Now().Add(resend)); err != nil {
		return 0, err
	}
	if ctx.Err() != nil { // what set the deadline before may have been undone
		return 0, ctx.Err()
	}
	e.sent = append(e.sent, time.Now())
	if _, err := e.conn.Write(raw); err != nil {
		return 0, err
	}
	buf := make([]byte, len(raw)+maxIPHeader)
	for {
		n, _, err := e.conn.ReadFromIP(buf) // unlike Read it takes an IPv4 header off
		if err != nil {
			return 0, err
		}
		got, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || got.Type != answer {
			continue
		}
		if b, ok := got.Body.(*icmp.Echo); ok && b.ID == e.id && b.Seq < len(e.sent) {
			return time.Since(e.sent[b.Seq]), nil
		}
	}
}
