package forwarding_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/fabric/forwarding"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// world is a host, with a router on its link that advertises itself.
type world struct {
	t            *testing.T
	host, router *netns.NS
	raw          int // an ICMPv6 socket of the router
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Need(t, testenv.Root)
	w := &world{t: t}
	for _, ns := range []**netns.NS{&w.host, &w.router} {
		var err error
		*ns, err = netns.New()
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { (*ns).Close() })
	}
	qt.Assert(t, qt.IsNil(w.host.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "wan0"
		link := netlink.NewVeth(attrs)
		link.PeerName, link.PeerNamespace = "lan0", netlink.NsFd(w.router.File().Fd())
		return netlink.LinkAdd(link)
	})))
	for ns, name := range map[*netns.NS]string{w.host: "wan0", w.router: "lan0"} {
		qt.Assert(t, qt.IsNil(ns.Do(func() error {
			for _, s := range [][2]string{{"all/forwarding", "0"}, {name + "/accept_dad", "0"}, {name + "/accept_ra", "1"}, {name + "/router_solicitations", "0"}} {
				if err := netns.WriteSysctl("ipv6/conf/"+s[0], s[1]); err != nil {
					return err
				}
			}
			link, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(link)
			}
			return err
		})))
	}
	qt.Assert(t, qt.IsNil(w.router.Do(func() (err error) {
		if w.raw, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6); err != nil {
			return err
		}
		link, err := net.InterfaceByName("lan0")
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.raw, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link.Index); err != nil {
			return err
		}
		return unix.SetsockoptInt(w.raw, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	})))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Close(w.raw))) })
	return w
}

// advertise has the router say for how long it is a default router, and waits for a route, or for none.
func (w *world) advertise(lifetime byte) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		// RFC 4861, 4.2. The kernel puts the checksum in.
		message := []byte{134, 0, 0, 0, 64, 0, lifetime, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		to := &unix.SockaddrInet6{Addr: [16]byte{0: 0xff, 1: 0x02, 15: 1}}
		// Until its link has an address the router can't send.
		if err := unix.Sendto(w.raw, message, 0, to); err == nil && w.hasDefault() == (lifetime > 0) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("an advertisement of %d changes nothing", lifetime)
		}
	}
}

// hasDefault tells whether the host has a default route.
func (w *world) hasDefault() (has bool) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.host.Do(func() error {
		list, err := netlist.Routes(netlist.Here(), unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		has = slices.ContainsFunc(list, func(r netlink.Route) bool { return r.Gw != nil })
		return err
	})))
	return has
}

// is fails unless a setting of the host has a value.
func (w *world) is(path, want string) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.host.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/" + path)
		qt.Check(w.t, qt.Equals(strings.TrimSpace(string(text)), want), qt.Commentf("%s", path))
		return err
	})))
}

// A host that forwards IPv6 keeps its default route, and goes on taking router advertisements, whether it
// was a router before, or its daemon has died meanwhile; a router does not.
func TestHostTakesAdvertisements(t *testing.T) {
	w := newWorld(t)
	n := forwarding.Network{NS: w.host, Dir: t.TempDir(), Name: "default", Device: "wan0"}
	w.advertise(255)
	for range 2 {
		for range 2 {
			qt.Assert(t, qt.IsNil(n.Raise(forwarding.Need{Six: forwarding.Host})))
			qt.Check(t, qt.IsTrue(w.hasDefault()))
			for path, want := range map[string]string{"all/forwarding": "1", "default/forwarding": "0", "wan0/forwarding": "0", "wan0/accept_ra": "1"} {
				w.is("ipv6/conf/"+path, want)
			}
			w.is("ipv4/ip_forward", "0")
		}
		w.advertise(0)
		w.advertise(255)
		qt.Assert(t, qt.IsNil(n.Raise(forwarding.Need{Four: true, Six: forwarding.Router})))
		qt.Check(t, qt.IsFalse(w.hasDefault()))
		w.is("ipv6/conf/wan0/forwarding", "1")
		w.is("ipv4/ip_forward", "1")
		qt.Assert(t, qt.IsNil(n.Raise(forwarding.Need{Six: forwarding.Host})))
		qt.Assert(t, qt.IsNil(n.Lower(forwarding.Need{Six: forwarding.Host})))
		w.is("ipv4/ip_forward", "0")
		w.advertise(255)
	}
	qt.Assert(t, qt.IsNil(n.Lower(forwarding.Need{})))
	w.is("ipv6/conf/all/forwarding", "0")
	w.is("ipv6/conf/wan0/accept_ra", "1")
	qt.Check(t, qt.IsTrue(w.hasDefault()))
	left, err := filepath.Glob(filepath.Join(n.Dir, "*"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(left, 0))
}

// What is a router is left one, and what two networks need stays until both are done with it.
func TestShared(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	one := forwarding.Network{NS: w.host, Dir: dir, Name: "one", Device: "wan0"}
	two := forwarding.Network{NS: w.host, Dir: dir, Name: "two", Device: "wan0"}
	need := forwarding.Need{Four: true, Six: forwarding.Host}
	for _, n := range []forwarding.Network{one, two} {
		qt.Assert(t, qt.IsNil(n.Raise(need)))
	}
	qt.Assert(t, qt.IsNil(one.Lower(forwarding.Need{})))
	w.is("ipv6/conf/all/forwarding", "1")
	w.is("ipv4/ip_forward", "1")
	qt.Assert(t, qt.IsNil(two.Lower(forwarding.Need{})))
	w.is("ipv6/conf/all/forwarding", "0")
	w.is("ipv4/ip_forward", "0")

	qt.Assert(t, qt.IsNil(w.host.Do(func() error { return netns.WriteSysctl("ipv6/conf/all/forwarding", "1") })))
	qt.Assert(t, qt.IsNil(one.Raise(need)))
	w.is("ipv6/conf/wan0/forwarding", "1")
	qt.Assert(t, qt.IsNil(one.Lower(forwarding.Need{})))
	w.is("ipv6/conf/all/forwarding", "1")
	w.is("ipv6/conf/wan0/forwarding", "1")
}
