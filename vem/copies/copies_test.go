package copies

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
)

// namespace is an empty network namespace.
func namespace(t *testing.T) *netns.NS {
	t.Helper()
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(ns.Close())) })
	return ns
}

// listener makes a listener in a namespace.
func listener(t *testing.T, ns *netns.NS, at string) *net.TCPListener {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false) // which Go would have
		l, err = c.Listen(t.Context(), "tcp", at)
		return err
	})
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// file is a socket's duplicate, as a holder has it, and its inode.
func file(t *testing.T, s interface{ File() (*os.File, error) }) (*os.File, uint64) {
	t.Helper()
	f, err := s.File()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { f.Close() })
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
	return f, st.Ino
}

// own is what a copy has besides what is missing.
func own(a netip.Addr) bool { return a.IsLoopback() }

// TestWhatACopyCanBind proves that a socket is refused if a copy could not bind it again, in words
// that name what the copy has not.
func TestWhatACopyCanBind(t *testing.T) {
	ns := namespace(t)
	elsewhere := netip.MustParseAddr("10.98.0.1")
	to := Bindable{Own: own, Missing: []netconf.Missing{{What: "network device wg0", Device: "wg0", Addresses: []netip.Addr{elsewhere}}}}
	socket := func(at string, options ...int) *hold.OpenSocket {
		var fd int
		err := ns.Do(func() (err error) {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			for _, o := range append(options, unix.IP_FREEBIND) { // for what is no address here
				if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, o, 1); err != nil {
					return err
				}
			}
			addr := netip.MustParseAddr(at)
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.As4()}); err != nil {
				return err
			}
			if len(options) == 0 {
				return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 0)
			}
			return nil
		})
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Close(fd))) })
		return &hold.OpenSocket{FD: fd, Owner: hold.Owner{PID: 1, FD: 3}}
	}
	for at, want := range map[string]string{
		"127.0.0.1": "", "0.0.0.0": "", "224.0.0.9": "",
		"10.98.0.1": ".*socket at 10.98.0.1:.* \\(an address of network device wg0, and copies of the app do not have that\\).*",
		"192.0.2.1": ".*no address of the app's devices any more.*",
	} {
		err := to.check(*socket(at))
		if want == "" {
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s", at))
			continue
		}
		qt.Check(t, qt.ErrorMatches(err, want))
		qt.Check(t, qt.ErrorIs(err, hold.ErrUnsupported))
	}
	qt.Check(t, qt.IsNil(to.check(*socket("192.0.2.1", unix.IP_FREEBIND))), qt.Commentf("it binds to any address"))

	// A device that is missing, too.
	bound := socket("0.0.0.0")
	lo := Bindable{Own: own, Missing: []netconf.Missing{{What: "network device lo", Device: "lo"}}}
	qt.Assert(t, qt.IsNil(lo.check(*bound)))
	qt.Assert(t, qt.IsNil(unix.BindToDevice(bound.FD, "lo")))
	qt.Check(t, qt.ErrorMatches(lo.check(*bound), ".*socket bound to network device lo .*"))
	qt.Check(t, qt.ErrorIs(CheckBound(t.Context(), []int{os.Getpid()}, lo), hold.ErrUnsupported))
}

// TestConnectionsOfTCPAreNotBound proves that a listener matters, and a connection does not.
func TestConnectionsOfTCPAreNotBound(t *testing.T) {
	l := listener(t, namespace(t), "127.0.0.1:0")
	nowhere := Bindable{Own: func(netip.Addr) bool { return false }}
	f, inode := file(t, l)
	qt.Check(t, qt.ErrorIs(nowhere.check(hold.OpenSocket{FD: int(f.Fd())}), hold.ErrUnsupported))
	set := hold.NewSet([]hold.Socket{{Inode: inode, File: f}})
	qt.Check(t, qt.ErrorIs(CheckHeldBound(set, nowhere), hold.ErrUnsupported))
	qt.Check(t, qt.IsNil(CheckHeldBound(set, Bindable{Own: own})))
}

// TestOptionsOfACopy proves that what a socket has otherwise than a new one is given to the
// socket of the same number in a copy, and that what can't be given is told.
func TestOptionsOfACopy(t *testing.T) {
	ns := namespace(t)
	l := listener(t, ns, "127.0.0.1:0")
	f, inode := file(t, l)
	fd := int(f.Fd())
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, 0x10)))
	g := NewGatherer(Options{NS: ns, Number: Numbers()})
	qt.Assert(t, qt.IsNil(g.Visit(hold.OpenSocket{Inode: inode, FD: fd, Owner: hold.Owner{PID: os.Getpid(), FD: fd}})))
	saved := g.Found().Options
	qt.Assert(t, qt.HasLen(saved.Sockets, 1))
	qt.Check(t, qt.Equals(saved.Sockets[0].Inode, inode))
	qt.Check(t, qt.Equals(saved.Sockets[0].FD, fd))

	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, 0)))
	place := &Place{NS: ns, Root: os.Getpid()}
	problems, err := place.Apply(t.Context(), saved)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(problems, 0))
	tos, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(tos, 0x10))

	gone := sockopt.Saved{Sockets: []sockopt.Socket{saved.Sockets[0], saved.Sockets[0]}}
	gone.Sockets[0].PID = 0x7fffffff
	gone.Sockets[1].FD = 0x7ffffff
	problems, err = place.Apply(t.Context(), gone)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(problems, 2))
	qt.Check(t, qt.Matches(problems[0].String(), ".* is otherwise than it was: there is no such process"))
	qt.Check(t, qt.ErrorIs(problems[1].Err, unix.EBADF))
}

// TestInsideConnectionIsOpened proves that both ends of a connection are found at the processes,
// and that one that no process has is refused.
func TestInsideConnectionIsOpened(t *testing.T) {
	ns := namespace(t)
	l := listener(t, ns, "127.0.0.1:0")
	var c net.Conn
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "client")
		defer f.Close()
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().Unmap().As4(), Port: int(addr.Port())}); err != nil {
			return err
		}
		c, err = net.FileConn(f)
		return err
	})))
	defer c.Close()
	waiting, err := FindInside(ns)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(waiting.Connections, 1))
	qt.Check(t, qt.Equals(waiting.Connections[0].Refused, "its other end waits to be accepted"))

	accepted, err := l.Accept()
	qt.Assert(t, qt.IsNil(err))
	defer accepted.Close()
	in, err := FindInside(ns)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(in.Connections, 1))
	qt.Assert(t, qt.HasLen(in.Connections[0].Ends, 2))
	qt.Assert(t, qt.IsNil(in.Open(t.Context(), []int{os.Getpid()})))
	qt.Check(t, qt.Equals(in.Connections[0].Refused, ""))
	for _, end := range in.Connections[0].Ends {
		var st unix.Stat_t
		qt.Assert(t, qt.IsNil(unix.Fstat(int(end.File.Fd()), &st)))
		qt.Check(t, qt.Equals(st.Ino, end.Inode))
	}
	qt.Check(t, qt.IsNil(in.Close()))
	qt.Check(t, qt.IsNil(in.Close())) // once more does nothing

	qt.Assert(t, qt.IsNil(in.Open(t.Context(), nil)))
	qt.Check(t, qt.Matches(in.Connections[0].Refused, "no process had an end of it open: .*"))
	held, err := FindInside(ns)
	qt.Assert(t, qt.IsNil(err))
	one, inode := file(t, c.(*net.TCPConn))
	two, other := file(t, accepted.(*net.TCPConn))
	qt.Assert(t, qt.IsNil(held.OpenHeld(hold.NewSet([]hold.Socket{{Inode: inode, File: one}, {Inode: other, File: two}}))))
	qt.Check(t, qt.Equals(held.Connections[0].Refused, ""))
	qt.Check(t, qt.IsNil(held.Close()))
	qt.Check(t, qt.IsNil(held.OpenHeld(hold.NewSet([]hold.Socket{{Inode: inode, File: one}}))))
	qt.Check(t, qt.Not(qt.Equals(held.Connections[0].Refused, "")))
	qt.Check(t, qt.IsNil(held.Close()))
}
