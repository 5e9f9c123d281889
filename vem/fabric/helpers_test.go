package fabric_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// needRoot skips a test that makes namespaces where that is not allowed.
func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces and devices")
	}
}

// newNS makes a scratch namespace: a host or an app. Nothing in it reaches the
// machine's network.
func newNS(tb testing.TB) *netns.NS {
	tb.Helper()
	needRoot(tb)
	ns, err := netns.New()
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { ns.Close() })
	return ns
}

var (
	prefix4 = netip.MustParsePrefix("10.77.0.0/16")
	prefix6 = netip.MustParsePrefix("fd77::/64")
)

// testConfig is a network on a scratch host.
func testConfig(tb testing.TB) fabric.Config {
	tb.Helper()
	host := newNS(tb)
	up(tb, host, "lo")
	return fabric.Config{Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: tb.TempDir(), Host: host}
}

// up brings a device of ns up.
func up(tb testing.TB, ns *netns.NS, device string) {
	tb.Helper()
	h := handle(tb, ns)
	link, err := h.LinkByName(device)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.IsNil(h.LinkSetUp(link)))
}

// open opens a fabric. The test's end deletes it, whatever state it is in then.
func open(tb testing.TB, cfg fabric.Config) *fabric.Fabric {
	tb.Helper()
	f, err := fabric.Open(tb.Context(), cfg)
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() {
		qt.Check(tb, qt.IsNil(f.Close()))
		ctx := context.WithoutCancel(tb.Context())
		f, err := fabric.Open(ctx, cfg)
		qt.Assert(tb, qt.IsNil(err))
		qt.Check(tb, qt.IsNil(f.Delete(ctx)))
		qt.Check(tb, qt.IsNil(f.Close()))
	})
	return f
}

// ep is the n-th endpoint of the test network.
func ep(n byte) fabric.Endpoint {
	a6 := prefix6.Addr().As16()
	a6[15] = n
	return fabric.Endpoint{App: "app" + string('0'+rune(n)), Addr4: netip.AddrFrom4([4]byte{10, 77, 0, n}), Addr6: netip.AddrFrom16(a6)}
}

// attach makes an app namespace and attaches it.
func attach(tb testing.TB, f *fabric.Fabric, e fabric.Endpoint) *netns.NS {
	tb.Helper()
	ns := newNS(tb)
	qt.Assert(tb, qt.IsNil(f.Attach(tb.Context(), e, ns)))
	return ns
}

// serve answers each TCP connection to addr in ns with the client's address.
func serve(tb testing.TB, ns *netns.NS, addr string) netip.AddrPort {
	tb.Helper()
	var l net.Listener
	qt.Assert(tb, qt.IsNil(ns.Do(func() (err error) {
		var lc net.ListenConfig
		l, err = lc.Listen(tb.Context(), "tcp", addr)
		return err
	})))
	done := make(chan struct{})
	tb.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().String())
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// dial connects from ns and returns what the server says.
func dial(tb testing.TB, ns *netns.NS, addr netip.AddrPort) (string, error) {
	tb.Helper()
	return dialWithin(tb, ns, addr, 3*time.Second)
}

func dialWithin(tb testing.TB, ns *netns.NS, addr netip.AddrPort, limit time.Duration) (string, error) {
	tb.Helper()
	var said []byte
	err := ns.Do(func() error {
		d := net.Dialer{Timeout: limit}
		c, err := d.DialContext(tb.Context(), "tcp", addr.String())
		if err != nil {
			return err
		}
		defer c.Close()
		said, err = io.ReadAll(c)
		return err
	})
	host, _, _ := strings.Cut(strings.Trim(string(said), "["), "]")
	if ap, err := netip.ParseAddrPort(string(said)); err == nil {
		host = ap.Addr().String()
	}
	return host, err
}

// udpEcho answers each datagram to addr in ns with the sender's address.
func udpEcho(tb testing.TB, ns *netns.NS, addr string) {
	tb.Helper()
	var c net.PacketConn
	qt.Assert(tb, qt.IsNil(ns.Do(func() (err error) {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(tb.Context(), "udp", addr)
		return err
	})))
	done := make(chan struct{})
	tb.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo([]byte(from.String()), from)
		}
	}()
}

// dialUDP opens a UDP socket in ns that is connected to addr.
func dialUDP(tb testing.TB, ns *netns.NS, addr string) net.Conn {
	tb.Helper()
	var c net.Conn
	qt.Assert(tb, qt.IsNil(ns.Do(func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(tb.Context(), "udp", addr)
		return err
	})))
	tb.Cleanup(func() { c.Close() })
	return c
}

// ask sends a datagram and returns the answer.
func ask(tb testing.TB, c net.Conn) (string, error) {
	tb.Helper()
	if _, err := c.Write([]byte("who am I?")); err != nil {
		return "", err
	}
	qt.Assert(tb, qt.IsNil(c.SetReadDeadline(time.Now().Add(3*time.Second))))
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	ap, err := netip.ParseAddrPort(string(buf[:n]))
	return ap.Addr().String(), err
}

// handle opens a netlink handle in ns.
func handle(tb testing.TB, ns *netns.NS) (h *netlink.Handle) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(ns.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})))
	tb.Cleanup(h.Close)
	return h
}

// joinPair connects two namespaces by a plain veth pair with addresses .1 and .2.
func joinPair(tb testing.TB, one, two *netns.NS, device string) {
	tb.Helper()
	h1, h2 := handle(tb, one), handle(tb, two)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = device
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = device, netlink.NsFd(two.File().Fd())
	qt.Assert(tb, qt.IsNil(h1.LinkAdd(v)))
	for i, h := range []*netlink.Handle{h1, h2} {
		link, err := h.LinkByName(device)
		qt.Assert(tb, qt.IsNil(err))
		for _, text := range []string{"192.0.2.%d/24", "2001:db8::%d/64"} {
			addr, err := netlink.ParseAddr(fmt.Sprintf(text, i+1))
			qt.Assert(tb, qt.IsNil(err))
			addr.Flags = unix.IFA_F_NODAD
			qt.Assert(tb, qt.IsNil(h.AddrAdd(link, addr)))
		}
		qt.Assert(tb, qt.IsNil(h.LinkSetUp(link)))
	}
}

// sysctl reads a setting of ns, path below /proc/sys/net.
func sysctl(tb testing.TB, ns *netns.NS, path string) (value string) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(ns.Do(func() error {
		raw, err := os.ReadFile("/proc/sys/net/" + path)
		value = strings.TrimSpace(string(raw))
		return err
	})))
	return value
}

// receive returns the sender of the first datagram that arrives at addr in ns, or
// nothing after three seconds.
func receive(tb testing.TB, ns *netns.NS, addr string) <-chan string {
	tb.Helper()
	var c net.PacketConn
	qt.Assert(tb, qt.IsNil(ns.Do(func() (err error) {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(tb.Context(), "udp", addr)
		return err
	})))
	qt.Assert(tb, qt.IsNil(c.SetReadDeadline(time.Now().Add(3*time.Second))))
	got := make(chan string, 1)
	done := make(chan struct{})
	tb.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		defer close(got)
		defer c.Close()
		if _, from, err := c.ReadFrom(make([]byte, 1500)); err == nil {
			got <- from.(*net.UDPAddr).AddrPort().Addr().String()
		}
	}()
	return got
}

// sendFrom sends a datagram from one of ns's addresses.
func sendFrom(tb testing.TB, ns *netns.NS, from, to string) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(ns.Do(func() error {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		c, err := d.DialContext(tb.Context(), "udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		return err
	})))
}

func addRoute(tb testing.TB, h *netlink.Handle, link netlink.Link, dst, gw string) {
	tb.Helper()
	to, err := netlink.ParseIPNet(dst)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.IsNil(h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Gw: net.ParseIP(gw)})))
}
