package fabric_test

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/netns"
)

// Three clones, a plain endpoint and the host: everybody reaches everybody, and
// each sees of itself what it has inside, and of others what they are outside.
// Checksums are right whoever computes them: nobody (a veth does not need any), the
// sender, or a device on the way.
func TestClones(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, cloned){
		"fast path":          func(*testing.T, cloned) {},
		"kernel's routes":    leaveToRoutes,
		"sender's checksums": sendChecksums,
		"checksums on the way": func(t *testing.T, w cloned) {
			t.Helper()
			leaveToRoutes(t, w)
			for _, l := range fabricDevices(t, w.f) {
				noOffload(t, w.f.Namespace(), l.Attrs().Name)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCloned(t, testConfig(t))
			prepare(t, w)
			for _, pair := range w.pairs() {
				for family := range 2 {
					for _, network := range []string{"tcp", "udp"} {
						w.check(t, pair[0], pair[1], network, family, 1000)
					}
				}
			}
		})
	}
}

// Large transfers arrive as they were sent, both ways: segments that nobody splits,
// and datagrams in fragments.
func TestCloneBulk(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, cloned){
		"fast path":       func(*testing.T, cloned) {},
		"kernel's routes": leaveToRoutes,
	} {
		t.Run(name, func(t *testing.T) {
			w := newCloned(t, testConfig(t))
			prepare(t, w)
			for _, pair := range w.pairs() {
				for family := range 2 {
					w.check(t, pair[0], pair[1], "tcp", family, 4<<20)
					w.check(t, pair[0], pair[1], "udp", family, 20000)
				}
			}
		})
	}
}

// Packets among endpoints and host, clones or not, do not cross the fabric's router.
func TestCloneFastPath(t *testing.T) {
	w := newCloned(t, testConfig(t))
	for _, pair := range w.pairs() {
		for family := range 2 {
			w.check(t, pair[0], pair[1], "tcp", family, 1000)
		}
	}
	qt.Check(t, qt.DeepEquals(forwarded(t, w.f.Namespace()), []int{0, 0}))
	leaveToRoutes(t, w)
	w.check(t, "host", "c2", "tcp", 0, 1000)
	w.check(t, "host", "c2", "tcp", 1, 1000)
	got := forwarded(t, w.f.Namespace())
	qt.Check(t, qt.IsTrue(got[0] > 0 && got[1] > 0), qt.Commentf("the counters count: %v", got))
}

// forwarded returns how many packets of IPv4 and IPv6 a namespace has routed.
func forwarded(t *testing.T, ns *netns.NS) []int {
	t.Helper()
	var four, six []byte
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		if four, err = os.ReadFile("/proc/thread-self/net/snmp"); err != nil {
			return err
		}
		six, err = os.ReadFile("/proc/thread-self/net/snmp6")
		return err
	})))
	// IPv4 has a line of names and one of values, IPv6 a line each.
	lines := strings.Split(string(four), "\n")
	at := slices.Index(strings.Fields(lines[0]), "ForwDatagrams")
	qt.Assert(t, qt.IsTrue(at > 0))
	_, rest, found := strings.Cut(string(six), "Ip6OutForwDatagrams")
	qt.Assert(t, qt.IsTrue(found))
	var list []int
	for _, text := range []string{strings.Fields(lines[1])[at], strings.Fields(rest)[0]} {
		n, err := strconv.Atoi(text)
		qt.Assert(t, qt.IsNil(err))
		list = append(list, n)
	}
	return list
}

// An endpoint at the address that clones have inside is somebody else: others reach
// it there, and clones reach themselves.
func TestCloneBesideOriginal(t *testing.T) {
	w := newCloned(t, testConfig(t))
	original := attach(t, w.f, inside)
	addrs := [2]netip.Addr{inside.Addr4, inside.Addr6}
	w.places["original"] = place{original, addrs, addrs}
	for family, a := range addrs {
		for _, network := range []string{"tcp", "udp"} {
			answer(t, original, network, netip.AddrPortFrom(a, 80).String())
			w.check(t, "p5", "original", network, family, 1000)
			w.check(t, "host", "original", network, family, 1000)
			w.check(t, "original", "p5", network, family, 1000)
			w.check(t, "host", "c2", network, family, 1000)
		}
		_, server, err := talk(t, w.places["c2"].ns, "tcp", netip.AddrPortFrom(a, 80).String(), 1000)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Matches(server, `self `+quote(a)+`:80 peer `+quote(a)+`:\d+`))
	}
}

func quote(a netip.Addr) string {
	if a.Is6() {
		return `\[` + a.String() + `\]`
	}
	return a.String()
}

// ICMP errors find the socket that they are about, on both sides.
func TestCloneErrors(t *testing.T) {
	w := newCloned(t, testConfig(t))
	for _, pair := range w.pairs() {
		from, to := w.places[pair[0]], w.places[pair[1]]
		for family := range 2 {
			for _, network := range []string{"tcp", "udp"} { // TCP: a reset
				_, _, err := talk(t, from.ns, network, to.address(family, 81), 10)
				qt.Check(t, qt.ErrorIs(err, unix.ECONNREFUSED), qt.Commentf("%s to %s, port 81", pair[0], to.outside[family]))
			}
		}
	}
	// The fabric's own errors.
	for _, addr := range []string{"10.77.9.9:80", "[fd77::9:9]:80"} {
		_, err := dial(t, w.places["c2"].ns, netip.MustParseAddrPort(addr))
		qt.Check(t, qt.IsTrue(errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)), qt.Commentf("%v", err))
	}
}

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

// newClonedWorld is a network of clones, and another machine behind a link that
// takes packets of 1280 bytes only.
func newClonedWorld(t *testing.T) (w cloned, abroad *netns.NS) {
	t.Helper()
	cfg := testConfig(t)
	cfg.Outside = fabric.OutsideDual
	abroad = newNS(t)
	joinPair(t, cfg.Host, abroad, "wan0")
	for _, ns := range []*netns.NS{cfg.Host, abroad} {
		h := handle(t, ns)
		link, err := h.LinkByName("wan0")
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(h.LinkSetMTU(link, 1280)))
	}
	noOffload(t, cfg.Host, "wan0")
	return newCloned(t, cfg), abroad
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

// A clone's published port is open to the outside, to the host and to other apps.
func TestClonePublications(t *testing.T) {
	w, abroad := newClonedWorld(t)
	var list []fabric.Publication
	for _, proto := range []string{"tcp", "udp"} {
		for n := byte(2); n <= 3; n++ {
			for _, a := range []netip.Addr{ep(n).Addr4, ep(n).Addr6} {
				list = append(list, fabric.Publication{Proto: proto, HostPort: 8080 + uint16(n), Addr: a, Port: 80})
			}
		}
	}
	qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), list)))
	for name, test := range map[string]struct {
		from *netns.NS
		sees [2]string
	}{
		"abroad":         {abroad, [2]string{"192.0.2.2", "[2001:db8::2]"}},
		"host":           {w.cfg.Host, [2]string{"192.0.2.1", "[2001:db8::1]"}},
		"plain endpoint": {w.places["p5"].ns, [2]string{"10.77.0.1", "[fd77::1]"}},
		"other clone":    {w.places["c4"].ns, [2]string{"10.77.0.1", "[fd77::1]"}},
		"itself":         {w.places["c2"].ns, [2]string{"10.77.0.1", "[fd77::1]"}},
	} {
		for family, host := range []string{"192.0.2.1", "[2001:db8::1]"} {
			for _, proto := range []string{"tcp", "udp"} {
				for _, port := range []string{":8082", ":8083"} {
					comment := qt.Commentf("%s to %s%s by %s", name, host, port, proto)
					_, server, err := talk(t, test.from, proto, host+port, 1000)
					qt.Assert(t, qt.IsNil(err), comment)
					want := "self " + bracket([]netip.Addr{inside.Addr4, inside.Addr6}[family]) + ":80 peer " + test.sees[family] + ":"
					qt.Check(t, qt.Equals(server[:min(len(want), len(server))], want), comment)
				}
			}
		}
	}
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

// The daemon goes and comes back: conversations with clones go on.
func TestCloneAdopt(t *testing.T) {
	w := newCloned(t, testConfig(t))
	var open []net.Conn
	for _, pair := range w.pairs() {
		for family := range 2 {
			c, _, err := talk(t, w.places[pair[0]].ns, "tcp", w.places[pair[1]].address(family, 80), 10)
			qt.Assert(t, qt.IsNil(err))
			open = append(open, c)
		}
	}
	check := func(when string) {
		t.Helper()
		for _, c := range open {
			_, err := echo(c, "tcp", 1000, false)
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s: %s to %s", when, c.LocalAddr(), c.RemoteAddr()))
		}
		for _, pair := range w.pairs() {
			w.check(t, pair[0], pair[1], "tcp", 0, 1000)
		}
	}
	check("before")
	qt.Assert(t, qt.IsNil(w.f.Close()))
	check("without a daemon")
	f, err := fabric.Open(t.Context(), w.cfg)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	check("adopted")
	qt.Assert(t, qt.IsNil(f.Attach(t.Context(), clone(2), w.places["c2"].ns)))
	check("attached again")
	qt.Assert(t, qt.IsNil(f.Detach(t.Context(), clone(3))))
	// From somebody new: the kernel limits ICMP errors to one address, and open
	// connections may have had theirs.
	_, err = dial(t, attach(t, f, clone(6)), netip.MustParseAddrPort("10.77.0.3:80"))
	qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
	qt.Assert(t, qt.IsNil(f.Attach(t.Context(), clone(3), w.places["c3"].ns)))
	check("detached and attached again")
}

// An endpoint that is attached again with other inside addresses has those and no
// others, and so after a restart of the daemon.
func TestCloneChanges(t *testing.T) {
	cfg := testConfig(t)
	f := open(t, cfg)
	app, peer := attach(t, f, ep(2)), attach(t, f, clone(3))
	elsewhere := ep(2)
	elsewhere.Inside4, elsewhere.Inside6 = netip.MustParseAddr("192.168.5.6"), netip.MustParseAddr("fdab::6")
	one := ep(2)
	one.Inside4 = inside.Addr4
	for _, e := range []fabric.Endpoint{clone(2), elsewhere, one, ep(2), one, elsewhere, ep(2), clone(2)} {
		qt.Assert(t, qt.IsNil(f.Attach(t.Context(), e, app)))
		qt.Assert(t, qt.IsNil(f.Close()))
		var err error
		f, err = fabric.Open(t.Context(), cfg)
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { f.Close() })
		want := []netip.Addr{cmp.Or(e.Inside4, e.Addr4), cmp.Or(e.Inside6, e.Addr6)}
		for i, a := range []netip.Addr{e.Addr4, e.Addr6} {
			for name, ns := range map[string]*netns.NS{"clone": peer, "host": cfg.Host} {
				_, err := dial(t, ns, netip.AddrPortFrom(a, serve(t, app, netip.AddrPortFrom(want[i], 0).String()).Port()))
				qt.Check(t, qt.IsNil(err), qt.Commentf("%s to %s, inside %s", name, a, want[i]))
			}
		}
		qt.Check(t, qt.IsTrue(slices.Equal(eth0(t, app), want)), qt.Commentf("%v, not %v", eth0(t, app), want))
	}
}

// eth0 lists the addresses of an app's device.
func eth0(t *testing.T, ns *netns.NS) (list []netip.Addr) {
	t.Helper()
	h := handle(t, ns)
	link, err := h.LinkByName("eth0")
	qt.Assert(t, qt.IsNil(err))
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	qt.Assert(t, qt.IsNil(err))
	for _, a := range addrs {
		addr, _ := netip.AddrFromSlice(a.IP)
		list = append(list, addr.Unmap())
	}
	return list
}

// A clone's address goes to another app, plain or clone, and leaves nothing.
func TestCloneDetach(t *testing.T) {
	f := open(t, testConfig(t))
	for n, e := range []fabric.Endpoint{clone(2), ep(2), clone(2)} {
		// One of its own each time: the kernel limits ICMP errors to one address.
		peer, app := attach(t, f, clone(byte(3+n))), newNS(t)
		qt.Assert(t, qt.IsNil(f.Attach(t.Context(), e, app)))
		listen := eth0(t, app)
		for i, a := range []netip.Addr{e.Addr4, e.Addr6} {
			addr := netip.AddrPortFrom(a, serve(t, app, netip.AddrPortFrom(listen[i], 0).String()).Port())
			_, err := dial(t, peer, addr)
			qt.Check(t, qt.IsNil(err), qt.Commentf("%v", e))
		}
		qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(2))), qt.Commentf("the inside address need not be known"))
		_, err := dial(t, peer, netip.MustParseAddrPort("10.77.0.2:80"))
		qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH), qt.Commentf("%v", e))
	}
}

func TestInsideIsChecked(t *testing.T) {
	f := open(t, testConfig(t))
	ns := newNS(t)
	for name, spoil := range map[string]func(*fabric.Endpoint){
		"family":          func(e *fabric.Endpoint) { e.Inside4 = inside.Addr6 },
		"family, IPv6":    func(e *fabric.Endpoint) { e.Inside6 = inside.Addr4 },
		"mapped":          func(e *fabric.Endpoint) { e.Inside6 = netip.MustParseAddr("::ffff:10.77.0.7") },
		"loopback":        func(e *fabric.Endpoint) { e.Inside4 = netip.MustParseAddr("127.0.0.1") },
		"link-local":      func(e *fabric.Endpoint) { e.Inside4 = netip.MustParseAddr("169.254.1.1") },
		"multicast":       func(e *fabric.Endpoint) { e.Inside6 = netip.MustParseAddr("ff02::1") },
		"gateway":         func(e *fabric.Endpoint) { e.Inside4 = netip.MustParseAddr("10.77.0.1") },
		"no IPv6 outside": func(e *fabric.Endpoint) { e.Addr6 = netip.Addr{} },
	} {
		t.Run(name, func(t *testing.T) {
			e := clone(2)
			spoil(&e)
			qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), e, ns), fabric.ErrConfig))
			qt.Check(t, qt.IsNil(f.Detach(t.Context(), e)), qt.Commentf("what was refused can be undone"))
		})
	}
}

// A mapping survives as an alias, and an alias of somebody else is none.
func TestMapping(t *testing.T) {
	for alias, want := range map[string]string{
		"":                             "",
		"inside 10.77.0.7":             "inside 10.77.0.7",
		"inside 10.77.0.7 fd77::7":     "inside 10.77.0.7 fd77::7",
		"inside ":                      "",
		"inside 10.77.0.7 and outside": "",
		"my device":                    "",
	} {
		qt.Check(t, qt.Equals(fabric.ReadMapping(alias), want), qt.Commentf(alias))
	}
}

// Without BPF a clone is refused before anything is made, and others work.
func TestInsideUnsupported(t *testing.T) {
	f := open(t, testConfig(t))
	f.ForgetFastPath()
	app := newNS(t)
	qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), clone(2), app), fastpath.ErrUnsupported))
	_, links := devices(t, f.Namespace())
	qt.Check(t, qt.HasLen(links, 2), qt.Commentf("lo and host0"))
	qt.Check(t, qt.IsNil(f.Attach(t.Context(), ep(2), app)))
	same := ep(3)
	same.Inside4, same.Inside6 = same.Addr4, same.Addr6
	qt.Check(t, qt.IsNil(f.Attach(t.Context(), same, newNS(t))), qt.Commentf("nothing to translate"))
}
