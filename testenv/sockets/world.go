// Package sockets makes sockets in a network namespace of their own, for tests of those who
// look at the sockets of other processes.
//
// A [World] is such a namespace, with nothing but a loopback device. An [App] is a process in
// it that has the descriptors that a test gave it, and does nothing with them: the test binary
// itself, so the package's TestMain has to call [Main]. All of it ends with the test. What goes
// wrong ends the test.
//
// Needs root.
package sockets

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
)

// The addresses of a world. The others stand for sources to tell apart.
var (
	App4   = netip.MustParseAddr("127.0.0.1")
	App6   = netip.MustParseAddr("::1")
	Other4 = netip.MustParseAddr("127.0.0.2")
	Other6 = netip.MustParseAddr("fd00::2")
)

// World is a network namespace with nothing but a loopback device, where the app
// and its peers live.
type World struct {
	T  testing.TB // whose world it is
	NS *netns.NS
}

// New makes a world.
func New(tb testing.TB) *World {
	tb.Helper()
	testenv.Need(tb, testenv.Root)
	ns, err := netns.New()
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { qt.Check(tb, qt.IsNil(ns.Close())) })
	w := &World{T: tb, NS: ns}
	w.Do(func() {
		lo, err := netlink.LinkByName("lo")
		qt.Assert(tb, qt.IsNil(err))
		qt.Assert(tb, qt.IsNil(netlink.LinkSetUp(lo)))
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: Other6.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
		qt.Assert(tb, qt.IsNil(netlink.AddrAdd(lo, addr)))
		// Lots of connections between the same two addresses.
		qt.Assert(tb, qt.IsNil(os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("2000 65000"), 0)))
	})
	return w
}

// Do runs fn inside the namespace.
func (w *World) Do(fn func()) {
	w.T.Helper()
	qt.Assert(w.T, qt.IsNil(w.NS.Do(func() error { fn(); return nil })))
}
