package slowpath_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// The first packet to an endpoint that has no way yet: no SYN is sent twice.
func TestFirstConnection(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	p := s.open(s.options())
	for i := range 20 {
		s.mustDial("tcp", fmt.Sprintf("10.77.1.%d:80", 1+i))
		s.mustDial("tcp", fmt.Sprintf("[fd77::1:%x]:80", 1+i))
	}
	qt.Check(t, qt.Equals(statistic(t, s.app, "TcpExt", "TCPSynRetrans"), 0))
	snap := p.Snapshot()
	qt.Check(t, qt.Equals(snap.Lookups, 40))
	// With each SYN at most the first answer to the far machine's own, which was underway.
	qt.Check(t, qt.IsTrue(snap.Delivered >= 40 && snap.Delivered <= 80), qt.Commentf("%d", snap.Delivered))
	qt.Check(t, qt.Equals(s.queries[0], slowpath.Query{Network: "default", Source: addr("10.77.0.2"), Destination: addr("10.77.1.1")}))
	for i := range 20 {
		s.mustDial("tcp", fmt.Sprintf("10.77.1.%d:80", 1+i))
	}
	qt.Check(t, qt.Equals(p.Snapshot().Lookups, 40), qt.Commentf("they have ways of their own"))
}

// The host and everybody beyond it is a source like any other.
func TestFromHost(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	s.open(s.options())
	qt.Assert(t, qt.IsNil(s.config.Host.Do(func() error {
		for _, to := range []string{"10.77.1.1:80", "[fd77::1:1]:80"} {
			c, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", to)
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})))
	qt.Check(t, qt.Equals(statistic(t, s.config.Host, "TcpExt", "TCPSynRetrans"), 0))
}

// All that is sent while a slow directory is asked arrives, in order.
func TestBurst(t *testing.T) {
	const burst = 3000
	for _, size := range []int{4, 1372} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := newSite(t)
			k := s.listen("udp4", ":7")
			p := s.open(s.options())
			found := make(chan struct{})
			s.setResolve(func(ctx context.Context, q slowpath.Query) (slowpath.Way, error) {
				select {
				case <-found:
				case <-ctx.Done():
				}
				return s.wayTo(q.Destination)
			})
			c := s.mustDial("udp", "10.77.1.1:7")
			s.send(c, 0, burst, size)
			eventually(t, "all wait", func() bool { return p.Snapshot().Packets == burst })
			close(found)
			eventually(t, "all arrive", func() bool { return len(k.from(c.LocalAddr())) == burst })
			qt.Check(t, qt.DeepEquals(k.from(c.LocalAddr()), numbers(burst)))
			qt.Check(t, qt.Equals(k.size, burst*size))
			snap := p.Snapshot()
			qt.Check(t, qt.Equals(snap.Bytes, 0))
			qt.Check(t, qt.Equals(snap.Delivered, burst))
		})
	}
}

// Packets that are sent all the time, before, while and after the way is opened: none is lost.
func TestStream(t *testing.T) {
	s := newSite(t)
	k := s.listen("udp4", ":7")
	p := s.open(s.options())
	const flows, each = 20, 1000
	for i := range flows {
		c := s.mustDial("udp", fmt.Sprintf("10.77.1.%d:7", 1+i))
		s.send(c, 0, each, 100)
		eventually(t, "all arrive", func() bool { return len(k.from(c.LocalAddr())) == each })
		seen := map[uint32]bool{}
		for _, n := range k.from(c.LocalAddr()) {
			seen[n] = true
		}
		qt.Check(t, qt.HasLen(seen, each))
	}
	qt.Check(t, qt.Equals(p.Snapshot().Overflow, 0))
}

// Who tries to reach an address that nobody has learns it at once.
func TestNobodyThere(t *testing.T) {
	s := newSite(t)
	p := s.open(s.options())
	for i := range 10 { // each twice: asked for, and remembered
		for _, to := range []string{fmt.Sprintf("10.77.2.%d:80", 1+i), fmt.Sprintf("[fd77::2:%x]:80", 1+i)} {
			for range 2 {
				_, err := s.dial("tcp", to)
				qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
				qt.Check(t, qt.ErrorIs(s.sendUDP(to), unix.EHOSTUNREACH))
			}
		}
	}
	snap := p.Snapshot()
	t.Log("SYNs sent twice:", statistic(t, s.app, "TcpExt", "TCPSynRetrans"), "of 40")
	qt.Check(t, qt.IsTrue(statistic(t, s.app, "TcpExt", "TCPSynRetrans") <= 4))
	eventually(t, "all errors are counted", func() bool { return p.Snapshot().Unreachable >= 80 })
	qt.Check(t, qt.IsTrue(snap.Lookups >= 20 && snap.Negative > 0), qt.Commentf("%+v", snap))
}

// sendUDP sends a datagram and waits for the error that comes back.
func (s *site) sendUDP(to string) error {
	s.tb.Helper()
	c := s.mustDial("udp", to)
	defer c.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	qt.Assert(s.tb, qt.IsNil(err))
	qt.Assert(s.tb, qt.IsNil(raw.Control(func(fd uintptr) {
		// Without it a UDP socket is not told (udp(7)).
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		if addr := netip.MustParseAddrPort(to).Addr(); addr.Is6() {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		}
	})))
	qt.Assert(s.tb, qt.IsNil(err))
	_, err = c.Write([]byte("hello"))
	qt.Assert(s.tb, qt.IsNil(err))
	qt.Assert(s.tb, qt.IsNil(c.SetReadDeadline(time.Now().Add(patience))))
	_, err = c.Read(make([]byte, 1))
	return err
}

// A new endpoint is known at once where it is told.
func TestForget(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	p := s.open(s.options())
	s.setResolve(func(context.Context, slowpath.Query) (slowpath.Way, error) { return nil, slowpath.ErrNobody })
	_, err := s.dial("tcp", "10.77.1.1:80")
	qt.Assert(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
	s.setResolve(nil)
	p.Forget(addr("10.77.1.1"))
	before := statistic(t, s.app, "TcpExt", "TCPSynRetrans")
	s.mustDial("tcp", "10.77.1.1:80")
	qt.Check(t, qt.Equals(statistic(t, s.app, "TcpExt", "TCPSynRetrans"), before))
}

// A directory that can't be reached for a while costs a connection nothing but time.
func TestDirectoryAway(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	s.open(s.options())
	tries := 0 // of one destination: never at the same time
	s.setResolve(func(_ context.Context, q slowpath.Query) (slowpath.Way, error) {
		if tries++; tries < 3 {
			return nil, errors.New("the directory can't be reached")
		}
		return s.wayTo(q.Destination)
	})
	s.mustDial("tcp", "10.77.1.1:80")
	qt.Check(t, qt.Equals(statistic(t, s.app, "TcpExt", "TCPSynRetrans"), 0))
}

// No way in time is no way.
func TestGivesUp(t *testing.T) {
	s := newSite(t)
	o := s.options()
	o.Limits.Patience = 50 * time.Millisecond
	s.open(o)
	s.setResolve(func(context.Context, slowpath.Query) (slowpath.Way, error) { return nil, errors.New("away") })
	_, err := s.dial("tcp", "10.77.1.1:80")
	qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
}

// Who floods one destination, or scans many, stands in nobody's way.
func TestFlood(t *testing.T) {
	s := newSite(t)
	s.serve("80")
	o := s.options()
	o.Limits.DestinationBytes, o.Limits.SourceDestinations = 100_000, 50
	p := s.open(o)
	s.setResolve(func(ctx context.Context, q slowpath.Query) (slowpath.Way, error) {
		if q.Destination == addr("10.77.1.1") || addr("10.77.2.0").Less(q.Destination) && q.Destination.Is4() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return s.wayTo(q.Destination)
	})
	c := s.mustDial("udp", "10.77.1.1:7")
	s.send(c, 0, 1000, 1000)
	dropped := func(why slowpath.Reason) func() bool {
		return func() bool { return p.Snapshot().Dropped[why] > 0 }
	}
	eventually(t, "the flood is bounded", dropped(slowpath.DestinationFull))
	s.mustDial("tcp", "10.77.1.2:80")

	scan := func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := addr("10.77.2.0")
		for range 1000 {
			to = to.Next()
			if err := unix.Sendto(fd, []byte("anybody there?"), 0, &unix.SockaddrInet4{Addr: to.As4(), Port: 9}); err != nil {
				return err
			}
		}
		return nil
	}
	qt.Assert(t, qt.IsNil(s.app.Do(scan)))
	eventually(t, "the scan is bounded", dropped(slowpath.Scan))
	other := newNS(t)
	qt.Assert(t, qt.IsNil(s.fabric.Attach(t.Context(), fabric.Endpoint{App: "other", Addr4: addr("10.77.0.3"), Addr6: addr("fd77::3")}, other)))
	s.app = other
	s.mustDial("tcp", "10.77.1.3:80")
	s.mustDial("tcp", "[fd77::1:3]:80")
	qt.Check(t, qt.Equals(statistic(t, s.app, "TcpExt", "TCPSynRetrans"), 0))
	qt.Check(t, qt.IsTrue(p.Snapshot().Bytes < 250_000))
}

// What is for all of the network goes nowhere.
func TestBroadcast(t *testing.T) {
	s := newSite(t)
	p := s.open(s.options())
	qt.Assert(t, qt.IsNil(s.app.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
			return errors.Join(err, cerr)
		}}
		c, err := lc.ListenPacket(t.Context(), "udp4", ":0")
		if err != nil {
			return err
		}
		defer c.Close()
		for _, to := range []string{"10.77.255.255", "10.77.0.0"} {
			if _, err := c.WriteTo([]byte("all"), &net.UDPAddr{IP: net.ParseIP(to), Port: 9}); err != nil {
				return err
			}
		}
		return nil
	})))
	eventually(t, "both are dropped", func() bool { return p.Snapshot().Dropped[slowpath.Broadcast] == 2 })
	qt.Check(t, qt.Equals(s.asked(), 0))
}

// An app that was attached to this host meanwhile is where its packets go, without any way.
func TestLocalAfterAll(t *testing.T) {
	s := newSite(t)
	s.open(s.options())
	late := newNS(t)
	s.setResolve(func(ctx context.Context, q slowpath.Query) (slowpath.Way, error) {
		return local{}, s.fabric.Attach(ctx, fabric.Endpoint{App: "late", Addr4: addr("10.77.0.9"), Addr6: addr("fd77::9")}, late)
	})
	var l net.Listener
	qt.Assert(t, qt.IsNil(late.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":80")
		return err
	})))
	defer l.Close()
	s.mustDial("tcp", "10.77.0.9:80")
	s.mustDial("tcp", "[fd77::9]:80")
	qt.Check(t, qt.Equals(statistic(t, s.app, "TcpExt", "TCPSynRetrans"), 0))
	qt.Check(t, qt.Equals(s.asked(), 1))
}

// local is the way to an endpoint of this host, which needs none.
type local struct{}

func (local) Prepare(context.Context) error { return nil }
func (local) Open(context.Context) error    { return nil }

func TestOptions(t *testing.T) {
	s := newSite(t)
	for name, edit := range map[string]func(o *slowpath.Options){
		"no namespace":  func(o *slowpath.Options) { o.NS = nil },
		"no resolver":   func(o *slowpath.Options) { o.Resolver = nil },
		"no prefix":     func(o *slowpath.Options) { o.Prefixes = nil },
		"prefix":        func(o *slowpath.Options) { o.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.77.0.1/16")} },
		"small MTU":     func(o *slowpath.Options) { o.MTU = 1279 },
		"large MTU":     func(o *slowpath.Options) { o.MTU = 65535 },
		"limit":         func(o *slowpath.Options) { o.Limits.Bytes = -1 },
		"gated outside": func(o *slowpath.Options) { o.Gated = []netip.Addr{addr("192.0.2.1")} },
	} {
		o := s.options()
		edit(&o)
		_, err := slowpath.Open(t.Context(), o)
		qt.Check(t, qt.ErrorIs(err, slowpath.ErrOptions), qt.Commentf(name))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := slowpath.Open(ctx, s.options())
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
	p := s.open(s.options())
	qt.Check(t, qt.ErrorIs(p.Gate(t.Context(), addr("192.0.2.1")), slowpath.ErrOptions))
	qt.Assert(t, qt.IsNil(p.Close()))
	qt.Assert(t, qt.IsNil(p.Close()))
	_, err = p.Device()
	qt.Check(t, qt.ErrorIs(err, os.ErrClosed))
	qt.Check(t, qt.ErrorIs(p.Gate(t.Context(), addr("10.77.1.1")), os.ErrClosed))
	qt.Check(t, qt.Equals(p.Snapshot().Overflow, 0))
}
