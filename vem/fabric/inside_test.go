package fabric_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
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
