package handover_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// The addresses of the app, at whichever host it is, and of the one who talks with it.
var (
	app4  = netip.MustParseAddr("10.77.0.7")
	app6  = netip.MustParseAddr("fd77::7")
	peer4 = netip.MustParseAddr("10.98.0.2")
	peer6 = netip.MustParseAddr("fd98::2")
)

// world is a peer, a router, and two hosts of which one has the app:
//
//	peer eth0 -- peer router app0 -- eth0 app[0]
//	                         app1 -- eth0 app[1]
type world struct {
	t            testing.TB
	peer, router *netns.NS
	app          [2]*netns.NS
	at           int // the host that has the app
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	testenv.Need(tb, testenv.Root)
	w := &world{t: tb}
	for _, p := range []**netns.NS{&w.peer, &w.router, &w.app[0], &w.app[1]} {
		ns, err := netns.New()
		qt.Assert(tb, qt.IsNil(err))
		tb.Cleanup(func() { qt.Check(tb, qt.IsNil(ns.Close())) })
		*p = ns
	}
	w.do(w.router, func() error {
		return errors.Join(netns.WriteSysctl("ipv4/ip_forward", "1"), netns.WriteSysctl("ipv6/conf/all/forwarding", "1"))
	})
	w.cable("peer", w.peer, peer4, peer6)
	w.cable("app0", w.app[0], app4, app6)
	w.cable("app1", w.app[1], app4, app6)
	w.do(w.router, func() error { return toward("peer", false, peer4, peer6) })
	w.open()
	return w
}

func (w *world) do(ns *netns.NS, fn func() error) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(ns.Do(fn)))
}

// cable connects the router with a namespace, whose device is eth0.
func (w *world) cable(name string, to *netns.NS, addrs ...netip.Addr) {
	w.t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, name[3]}
	w.do(w.router, func() error {
		here := net.HardwareAddr{2, 0, 0, 0, 1, name[3]}
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: here}, PeerName: "eth0", PeerHardwareAddr: mac,
			PeerNamespace: netlink.NsFd(int(to.File().Fd())),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs { // nobody asks for addresses
			err = errors.Join(err, netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}))
		}
		return errors.Join(err, netlink.LinkSetUp(l))
	})
	w.do(to, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		for i, a := range addrs {
			via := []net.IP{{169, 254, 1, 1}, net.ParseIP("fe80::1")}[i]
			err = errors.Join(err,
				netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}),
				netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: via, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 1, name[3]}}),
				netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: any0(a), Gw: via, Flags: int(netlink.FLAG_ONLINK), Priority: 100}))
		}
		return err
	})
	for _, a := range addrs {
		w.settled(to, a)
	}
}

// settled waits until the kernel takes an address for its own: of IPv6 that takes a moment
// (net/ipv6/addrconf.c, addrconf_dad_work).
func (w *world) settled(ns *netns.NS, a netip.Addr) {
	w.t.Helper()
	deadline, tick := time.NewTimer(10*time.Second), time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		own := false
		w.do(ns, func() error {
			routes, err := netlink.RouteGet(a.AsSlice())
			own = err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
			return nil
		})
		if own {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			w.t.Fatalf("%s is no address of the namespace", a)
		}
	}
}

func any0(like netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, like.BitLen()/8), Mask: net.CIDRMask(0, like.BitLen())}
}

// toward sets routes to addresses: over a device, or to nowhere if shut.
func toward(device string, shut bool, addrs ...netip.Addr) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Priority: 10}
		if shut {
			r.LinkIndex, r.Type = 0, unix.RTN_BLACKHOLE
		}
		err = errors.Join(err, netlink.RouteReplace(r))
	}
	return err
}

// shut closes the gate, of both hosts: first the way in.
func (w *world) shut() {
	w.t.Helper()
	w.do(w.router, func() error {
		err := toward("peer", true, app4, app6)
		for at := range w.app {
			for _, r := range out(at) {
				err = errors.Join(err, netlink.RuleAdd(r))
			}
		}
		return err
	})
}

// out are the rules by which the router drops what comes from a host.
func out(at int) []*netlink.Rule {
	var rules []*netlink.Rule
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		r := netlink.NewRule()
		r.Family, r.IifName, r.Priority, r.Type = family, "app"+strconv.Itoa(at), 10, unix.FR_ACT_BLACKHOLE
		rules = append(rules, r)
	}
	return rules
}

// open opens it where the app is.
func (w *world) open() {
	w.t.Helper()
	w.do(w.router, func() error {
		for at := range w.app {
			for _, r := range out(at) {
				if err := netlink.RuleDel(r); err != nil && !errors.Is(err, unix.ENOENT) {
					return err
				}
			}
		}
		return toward("app"+strconv.Itoa(w.at), false, app4, app6)
	})
}

// move moves a set to the other host, and closes it here.
func (w *world) move(set *hold.Set) *hold.Set {
	w.t.Helper()
	r, _ := w.restored(set)
	w.open()
	qt.Assert(w.t, qt.IsNil(r.Release(w.t.Context())))
	return r.Set
}

// restored moves a set as far as to the sockets that are silent.
func (w *world) restored(set *hold.Set) (*handover.Restored, *handover.Saved) {
	w.t.Helper()
	ctx := w.t.Context()
	refused, err := handover.Check(ctx, w.app[w.at], set, app4, app6)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.HasLen(refused, 0))
	l, err := handover.Begin(ctx, w.app[w.at], set, app4, app6)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.IsNil(l.Still(ctx)))
	w.shut()
	saved, err := l.Save(ctx)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Assert(w.t, qt.HasLen(saved.Refused, 0))
	qt.Assert(w.t, qt.IsNil(set.Close()))
	w.at = 1 - w.at
	r, err := handover.Restore(ctx, w.app[w.at], w.sent(saved))
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { qt.Check(w.t, qt.IsNil(r.Set.Close())) })
	qt.Assert(w.t, qt.HasLen(r.Problems, 0), qt.Commentf("%v", r.Problems))
	return r, saved
}

// loopback has the loopback devices of the hosts be up.
func (w *world) loopback() {
	w.t.Helper()
	for _, ns := range w.app {
		w.do(ns, func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(lo)
		})
	}
}

// ended is a context that has ended.
func ended(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// sent is what the other host gets.
func (w *world) sent(s *handover.Saved) *handover.Saved {
	w.t.Helper()
	b, err := s.Encode()
	qt.Assert(w.t, qt.IsNil(err))
	got, err := handover.Decode(b)
	qt.Assert(w.t, qt.IsNil(err))
	return got
}

// socket makes a socket in a namespace, which the test closes.
func (w *world) socket(ns *netns.NS, family, kind, proto int) *end {
	w.t.Helper()
	e := &end{t: w.t}
	w.do(ns, func() (err error) {
		e.fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
		return err
	})
	w.t.Cleanup(e.close)
	return e
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// listen makes a TCP listener.
func (w *world) listen(ns *netns.NS, at netip.AddrPort, set ...func(fd int)) *end {
	w.t.Helper()
	l := w.socket(ns, family(at.Addr()), unix.SOCK_STREAM, 0)
	for _, fn := range set {
		fn(l.fd)
	}
	qt.Assert(w.t, qt.IsNil(unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)))
	qt.Assert(w.t, qt.IsNil(unix.Bind(l.fd, sockaddr(at))))
	qt.Assert(w.t, qt.IsNil(unix.Listen(l.fd, 64)))
	return l
}

// dial connects a new socket of ns with a listener, and accepts.
func (w *world) dial(ns *netns.NS, l *end, to netip.AddrPort, set ...func(fd int)) (c, a *end) {
	w.t.Helper()
	c = w.socket(ns, family(to.Addr()), unix.SOCK_STREAM, 0)
	for _, fn := range set {
		fn(c.fd)
	}
	qt.Assert(w.t, qt.IsNil(unix.Connect(c.fd, sockaddr(to))))
	return c, l.accept()
}

// hold holds ends of the app, as package collect would, in this order; the ends themselves are
// closed.
func (w *world) hold(ends ...*end) *hold.Set {
	w.t.Helper()
	sockets := make([]hold.Socket, len(ends))
	for i, e := range ends {
		sockets[i] = e.held(i + 3)
		e.close()
	}
	set := hold.NewSet(sockets)
	qt.Assert(w.t, qt.IsNil(errors.Join(set.Widen(), set.Arm())))
	w.t.Cleanup(func() { qt.Check(w.t, qt.IsNil(set.Close())) })
	return set
}

func (e *end) held(number int) hold.Socket {
	e.t.Helper()
	fd, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0)
	qt.Assert(e.t, qt.IsNil(err))
	var st unix.Stat_t
	qt.Assert(e.t, qt.IsNil(unix.Fstat(fd, &st)))
	s := hold.Socket{Inode: st.Ino, Owners: []hold.Owner{{PID: 1, FD: number}}, File: os.NewFile(uintptr(fd), "socket"), State: sockdiag.Close.String()}
	for p, name := range map[*int]int{&s.Family: unix.SO_DOMAIN, &s.Type: unix.SO_TYPE, &s.Proto: unix.SO_PROTOCOL} {
		*p, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		qt.Assert(e.t, qt.IsNil(err))
	}
	switch {
	case s.Family == unix.AF_UNIX:
		s.Kind = hold.Unix
		return s
	case s.Type == unix.SOCK_STREAM:
		s.Kind = hold.TCP
		info := e.info()
		s.State = sockdiag.State(info.State).String()
		if sockdiag.State(info.State) == sockdiag.Listen {
			s.Kind, s.Backlog = hold.TCPListen, int(info.Sacked)
		}
	case s.Type == unix.SOCK_RAW:
		s.Kind = hold.Raw
	case s.Proto == unix.IPPROTO_ICMP || s.Proto == unix.IPPROTO_ICMPV6:
		s.Kind = hold.Ping
	default:
		s.Kind = hold.UDP
	}
	name, err := unix.Getsockname(fd)
	qt.Assert(e.t, qt.IsNil(err))
	s.Local = addrPort(name)
	if peer, err := unix.Getpeername(fd); err == nil {
		s.Remote = addrPort(peer)
	}
	s.Receive, err = hold.ReadBuffer(s.Kind, fd)
	qt.Assert(e.t, qt.IsNil(err))
	return s
}

// woken are the ends of a set, in the order in which they were held, with what the old ones
// knew.
func (w *world) woken(set *hold.Set, old ...*end) []*end {
	w.t.Helper()
	out := make([]*end, len(set.Sockets))
	qt.Assert(w.t, qt.HasLen(set.Sockets, len(old)))
	for i := range set.Sockets {
		s := &set.Sockets[i]
		fd, err := unix.FcntlInt(s.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		qt.Assert(w.t, qt.IsNil(err))
		n := s.Owners[0].FD - 3
		e := *old[n]
		e.fd = fd
		out[n] = &e
		w.t.Cleanup(e.close)
		w.t.Cleanup(out[n].close)
	}
	return out
}
