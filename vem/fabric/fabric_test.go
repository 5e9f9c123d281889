package fabric_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netns"
)

// TestReach runs through the fast path, and once more without.
func TestReach(t *testing.T) {
	for _, way := range []string{"fast path", "kernel's routes"} {
		t.Run(way, func(t *testing.T) {
			cfg := testConfig(t)
			f := open(t, cfg)
			qt.Assert(t, qt.IsNil(f.FastPath()))
			one, two := attach(t, f, ep(2)), attach(t, f, ep(3))
			if way == "kernel's routes" {
				dropFastPath(t, f)
			}
			for name, test := range map[string]struct {
				from, to     *netns.NS
				listen, sees string
			}{
				"app to app":         {one, two, "10.77.0.3:80", "10.77.0.2"},
				"app to app, IPv6":   {two, one, "[fd77::2]:80", "fd77::3"},
				"host to app":        {cfg.Host, two, "10.77.0.3:81", "10.77.0.1"},
				"host to app, IPv6":  {cfg.Host, two, "[fd77::3]:81", "fd77::1"},
				"app to host":        {one, cfg.Host, "10.77.0.1:82", "10.77.0.2"},
				"app to host, IPv6":  {one, cfg.Host, "[fd77::1]:82", "fd77::2"},
				"app to itself":      {one, one, "10.77.0.2:83", "10.77.0.2"},
				"app to itself, lo":  {one, one, "127.0.0.1:83", "127.0.0.1"},
				"app to itself, lo6": {one, one, "[::1]:83", "::1"},
			} {
				t.Run(name, func(t *testing.T) {
					addr := serve(t, test.to, test.listen)
					saw, err := dial(t, test.from, addr)
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.Equals(saw, test.sees))
				})
			}
		})
	}
}

// dropFastPath takes the program off every device of the fabric.
func dropFastPath(t *testing.T, f *fabric.Fabric) {
	t.Helper()
	for _, l := range fabricDevices(t, f) {
		dropPrograms(t, f, l)
	}
}

// fabricDevices lists the fabric's ends of all links.
func fabricDevices(t *testing.T, f *fabric.Fabric) (list []netlink.Link) {
	t.Helper()
	links, err := handle(t, f.Namespace()).LinkList()
	qt.Assert(t, qt.IsNil(err))
	for _, l := range links {
		if l.Type() == "veth" {
			list = append(list, l)
		}
	}
	return list
}

// dropPrograms takes all programs off a device of the fabric.
func dropPrograms(t *testing.T, f *fabric.Fabric, l netlink.Link) {
	t.Helper()
	device := l.Attrs().Index
	qt.Assert(t, qt.IsNil(f.Namespace().Do(func() error {
		for _, hook := range []tcx.Hook{tcx.Ingress, tcx.Egress} {
			list, err := tcx.List(device, hook)
			for _, p := range list {
				err = errors.Join(err, tcx.Remove(device, hook, p.Name))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})))
	err := handle(t, f.Namespace()).QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // it has none
		qt.Assert(t, qt.IsNil(err))
	}
}

func TestIPv4Only(t *testing.T) {
	cfg := testConfig(t)
	cfg.Prefix6 = netip.Prefix{}
	f := open(t, cfg)
	one, two := ep(2), ep(3)
	one.Addr6, two.Addr6 = netip.Addr{}, netip.Addr{}
	a, b := attach(t, f, one), attach(t, f, two)
	_, err := dial(t, a, serve(t, b, "10.77.0.3:80"))
	qt.Check(t, qt.IsNil(err))
	_, err = dial(t, cfg.Host, serve(t, b, "10.77.0.3:81"))
	qt.Check(t, qt.IsNil(err))
}

// A program in an app finds the conditions that Docker gives it, and no MPTCP.
func TestAppSettings(t *testing.T) {
	f := open(t, testConfig(t))
	app := attach(t, f, ep(2))
	for path, want := range map[string]string{
		"mptcp/enabled":                   "0",
		"ipv4/ping_group_range":           "0\t2147483647",
		"ipv4/ip_unprivileged_port_start": "0",
	} {
		qt.Check(t, qt.Equals(sysctl(t, app, path), want), qt.Commentf(path))
	}
	link, err := handle(t, app).LinkByName("eth0")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(link.Attrs().MTU, fabric.DefaultMTU))
	qt.Check(t, qt.Equals(link.Attrs().HardwareAddr.String(), "02:73:0a:4d:00:02"))
}

// An address that no app has is refused at once, by the fabric.
func TestUnknownAddress(t *testing.T) {
	cfg := testConfig(t)
	f := open(t, cfg)
	app := attach(t, f, ep(2))
	gone := attach(t, f, ep(3))
	serve(t, gone, "10.77.0.3:80")
	qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(3))))
	for name, test := range map[string]struct {
		from *netns.NS
		to   string
	}{
		"app":               {app, "10.77.9.9:80"},
		"app, IPv6":         {app, "[fd77::9:9]:80"},
		"host":              {cfg.Host, "10.77.9.9:80"},
		"host, IPv6":        {cfg.Host, "[fd77::9:9]:80"},
		"detached app":      {app, "10.77.0.3:80"},
		"detached app, v6":  {app, "[fd77::3]:80"},
		"broadcast address": {app, "10.77.255.255:80"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dial(t, test.from, netip.MustParseAddrPort(test.to))
			qt.Check(t, qt.IsTrue(errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)), qt.Commentf("%v", err))
		})
	}
}

// An app cannot send under another's address, known or not.
func TestForgedSource(t *testing.T) {
	for _, way := range []string{"fast path", "kernel's routes"} {
		for name, test := range map[string]struct{ forged, listen string }{
			"another's":       {"10.77.0.4", "10.77.0.3:9"},
			"nobody's":        {"10.77.0.99", "10.77.0.3:9"},
			"abroad":          {"198.51.100.1", "10.77.0.3:9"},
			"the gateway's":   {"10.77.0.1", "10.77.0.3:9"},
			"another's, IPv6": {"fd77::4", "[fd77::3]:9"},
			"nobody's, IPv6":  {"fd77::99", "[fd77::3]:9"},
			"abroad, IPv6":    {"2001:db8:9::1", "[fd77::3]:9"},
		} {
			t.Run(way+"/"+name, func(t *testing.T) {
				f := open(t, testConfig(t))
				one, two := attach(t, f, ep(2)), attach(t, f, ep(3))
				attach(t, f, ep(4))
				if way == "kernel's routes" {
					dropFastPath(t, f)
				}
				h := handle(t, one)
				lo, err := h.LinkByName("lo")
				qt.Assert(t, qt.IsNil(err))
				forged := netip.MustParseAddr(test.forged)
				addr, err := netlink.ParseAddr(netip.PrefixFrom(forged, forged.BitLen()).String())
				qt.Assert(t, qt.IsNil(err))
				addr.Flags = unix.IFA_F_NODAD
				qt.Assert(t, qt.IsNil(h.AddrAdd(lo, addr)))

				got := receive(t, two, test.listen)
				sendFrom(t, one, test.forged, test.listen)
				own := "10.77.0.2"
				if forged.Is6() {
					own = "fd77::2"
				}
				// Same path, same order: when this one is there, the forged one was lost.
				sendFrom(t, one, own, test.listen)
				qt.Check(t, qt.Equals(<-got, own))
			})
		}
	}
}

func TestAttachTwice(t *testing.T) {
	f := open(t, testConfig(t))
	app, other := attach(t, f, ep(2)), newNS(t)
	addr := serve(t, app, "10.77.0.2:80")
	qt.Check(t, qt.IsNil(f.Attach(t.Context(), ep(2), app)))
	qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), ep(2), other), fabric.ErrAttached), qt.Commentf("address of a living app"))
	qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), ep(3), app), fabric.ErrAttached), qt.Commentf("app with an address"))
	_, err := dial(t, attach(t, f, ep(4)), addr)
	qt.Check(t, qt.IsNil(err), qt.Commentf("the first one is untouched"))

	qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(2))))
	qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(2))))
	qt.Check(t, qt.IsNil(f.Attach(t.Context(), ep(2), other)))
	qt.Check(t, qt.IsNil(f.Attach(t.Context(), ep(3), app)))
}

// A namespace that brings its own eth0 is refused and left as it is.
func TestAttachForeignDevice(t *testing.T) {
	f := open(t, testConfig(t))
	app := newNS(t)
	joinPair(t, app, newNS(t), "eth0")
	qt.Check(t, qt.ErrorIs(f.Attach(t.Context(), ep(2), app), fabric.ErrAttached))
	_, err := handle(t, app).LinkByName("eth0")
	qt.Check(t, qt.IsNil(err))
}

// Datagrams larger than the MTU travel in fragments, by each way.
func TestFragments(t *testing.T) {
	cfg := testConfig(t)
	f := open(t, cfg)
	one, two := attach(t, f, ep(2)), attach(t, f, ep(3))
	udpEcho(t, two, "10.77.0.3:9")
	udpEcho(t, two, "[fd77::3]:9")
	payload := make([]byte, 20000)
	for _, way := range []string{"fast path", "kernel's routes"} {
		if way == "kernel's routes" {
			dropFastPath(t, f)
		}
		for who, ns := range map[string]*netns.NS{"app": one, "host": cfg.Host} {
			for _, to := range []string{"10.77.0.3:9", "[fd77::3]:9"} {
				c := dialUDP(t, ns, to)
				_, err := c.Write(payload)
				qt.Assert(t, qt.IsNil(err))
				_, err = ask(t, c)
				qt.Check(t, qt.IsNil(err), qt.Commentf("%s to %s by %s", who, to, way))
			}
		}
	}
}

// The very first packets after Attach arrive, in each direction: nothing is still
// being set up behind the scenes. Datagrams, because TCP would try again.
func TestFirstPacket(t *testing.T) {
	cfg := testConfig(t)
	f := open(t, cfg)
	for _, way := range []string{"fast path", "kernel's routes"} {
		for range 10 {
			app := newNS(t)
			qt.Assert(t, qt.IsNil(f.Attach(t.Context(), ep(2), app)))
			if way == "kernel's routes" {
				dropFastPath(t, f)
			}
			for _, pair := range [][2]string{{"10.77.0.1", "10.77.0.2"}, {"fd77::1", "fd77::2"}} {
				host, self := pair[0], pair[1]
				got := receive(t, cfg.Host, net.JoinHostPort(host, "9"))
				sendFrom(t, app, self, net.JoinHostPort(host, "9"))
				qt.Check(t, qt.Equals(<-got, self), qt.Commentf("%s to %s by %s", self, host, way))
				got = receive(t, app, net.JoinHostPort(self, "9"))
				sendFrom(t, cfg.Host, host, net.JoinHostPort(self, "9"))
				qt.Check(t, qt.Equals(<-got, host), qt.Commentf("%s to %s by %s", host, self, way))
			}
			qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(2))))
		}
	}
}

// What an app has set for a device of its own stays when it is attached again. To write a setting of
// conf/all once more, which has its value, would set it for all devices.
func TestAttachAgainKeepsSettings(t *testing.T) {
	f := open(t, testConfig(t))
	app := attach(t, f, ep(2))
	const own, all, inherited = "ipv6/conf/lo/disable_ipv6", "ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"
	qt.Assert(t, qt.IsNil(app.Do(func() error { return setSysctl(own, "1") })))
	qt.Assert(t, qt.IsNil(f.Attach(t.Context(), ep(2), app)))
	qt.Check(t, qt.Equals(sysctl(t, app, own), "1"))
	// But what apps rely on is put right.
	qt.Assert(t, qt.IsNil(app.Do(func() error { return setSysctl(inherited, "1") })))
	qt.Assert(t, qt.IsNil(f.Attach(t.Context(), ep(2), app)))
	for _, path := range []string{own, all, inherited} {
		qt.Check(t, qt.Equals(sysctl(t, app, path), "0"), qt.Commentf(path))
	}
}
