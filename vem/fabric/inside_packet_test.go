package fabric_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// Everybody can ping everybody.
func TestClonePing(t *testing.T) {
	w := newCloned(t, testConfig(t))
	qt.Assert(t, qt.IsNil(w.cfg.Host.Do(func() error { return setSysctl("ipv4/ping_group_range", "0 2147483647") })))
	for _, pair := range w.pairs() {
		from, to := w.places[pair[0]], w.places[pair[1]]
		for family := range 2 {
			qt.Check(t, qt.IsNil(ping(t, from.ns, to.outside[family])), qt.Commentf("%s to %s", pair[0], to.outside[family]))
		}
	}
}

// ping sends one echo request and waits for the answer.
func ping(t *testing.T, ns *netns.NS, to netip.Addr) error {
	t.Helper()
	network, local, kind, number := "udp4", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), 1
	if to.Is6() {
		network, local, kind, number = "udp6", "::", ipv6.ICMPTypeEchoRequest, 58
	}
	return ns.Do(func() error {
		c, err := icmp.ListenPacket(network, local)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		raw, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{Seq: 1, Data: make([]byte, 500)}}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(raw, &net.UDPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		n, peer, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(number, buf[:n])
		if err != nil {
			return err
		}
		if got := peer.(*net.UDPAddr).AddrPort().Addr().Unmap(); got != to || m.Type == kind {
			return fmt.Errorf("%v from %s", m.Type, got)
		}
		return nil
	})
}

// A transport header is found behind extension headers, and so is its checksum, which
// the kernel does not leave to a device then.
func TestCloneExtensionHeaders(t *testing.T) {
	w := newCloned(t, testConfig(t))
	for _, option := range []int{unix.IPV6_DSTOPTS, unix.IPV6_HOPOPTS} {
		for _, pair := range [][2]string{{"c2", "c3"}, {"c2", "p5"}, {"p5", "c2"}, {"c2", "c2"}} {
			c := dialUDP(t, w.places[pair[0]].ns, w.places[pair[1]].address(1, 80))
			raw, err := c.(*net.UDPConn).SyscallConn()
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(raw.Control(func(fd uintptr) {
				// 24 bytes: two times 8 behind the first 8, filled by one option that
				// who does not know it skips (RFC 4727).
				header := append([]byte{0, 2, 0x1e, 20}, make([]byte, 20)...)
				err = unix.SetsockoptString(int(fd), unix.IPPROTO_IPV6, option, string(header))
			})))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(c.SetDeadline(time.Now().Add(3*time.Second))))
			for _, size := range []int{100, 5000} {
				_, err = echo(c, "udp", size, false)
				qt.Check(t, qt.IsNil(err), qt.Commentf("%s to %s, %d bytes", pair[0], pair[1], size))
			}
		}
	}
}

// A clone reaches the outside under the host's address, and is told of a path that
// takes smaller packets only.
func TestCloneOutside(t *testing.T) {
	w, abroad := newClonedWorld(t)
	for family, far := range []string{"192.0.2.2:80", "[2001:db8::2]:80"} {
		host := []string{"192.0.2.1", "[2001:db8::1]"}[family]
		for _, network := range []string{"tcp", "udp"} {
			answer(t, abroad, network, far)
			for _, name := range []string{"c2", "c3", "p5"} {
				size := 1 << 20
				if network == "udp" {
					size = 1000
				}
				c, server, err := talk(t, w.places[name].ns, network, far, size)
				qt.Assert(t, qt.IsNil(err), qt.Commentf("%s to %s by %s", name, far, network))
				qt.Check(t, qt.Satisfies(server, func(s string) bool {
					return len(s) > 0 && s[:len("self "+far+" peer "+host+":")] == "self "+far+" peer "+host+":"
				}), qt.Commentf(server))
				if network == "udp" {
					qt.Check(t, qt.ErrorIs(tooLarge(t, c, family), unix.EMSGSIZE), qt.Commentf("%s to %s", name, far))
				}
			}
		}
	}
}

// tooLarge sends 1350 bytes that must not be split and returns what the socket hears
// of it.
func tooLarge(t *testing.T, c net.Conn, family int) error {
	t.Helper()
	level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if family == 1 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	raw, err := c.(*net.UDPConn).SyscallConn()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO)
	})))
	qt.Assert(t, qt.IsNil(err))
	if _, err := c.Write(make([]byte, 1350-48)); err != nil {
		return err // another socket's packet has told the kernel before
	}
	_, err = c.Read(make([]byte, 1500))
	return err
}
