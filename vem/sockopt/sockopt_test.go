package sockopt_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// world is a network namespace with the loopback device and another one, whose number
// differs from world to world.
type world struct {
	t       *testing.T
	ns      *netns.NS
	devices map[string]int
}

func newWorld(t *testing.T, before ...string) *world {
	t.Helper()
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(ns.Close())) })
	w := &world{t: t, ns: ns}
	w.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		for _, name := range append(before, "eth0") {
			d := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: name + "-peer"}
			if err := netlink.LinkAdd(d); err != nil {
				return err
			}
			for _, end := range []string{d.Name, d.PeerName} {
				link, err := netlink.LinkByName(end)
				if err != nil {
					return err
				}
				if err := netlink.LinkSetUp(link); err != nil {
					return err
				}
			}
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = netlink.AddrAdd(eth, &netlink.Addr{IPNet: netlink.NewIPNet(netip.MustParseAddr("10.99.0.1").AsSlice())})
		if err != nil {
			return err
		}
		w.devices, err = sockopt.Devices()
		return err
	})
	return w
}

func (w *world) do(fn func() error) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.ns.Do(fn)))
}

func (w *world) socket(family, sort, proto int) int {
	w.t.Helper()
	fd := -1
	w.do(func() (err error) {
		fd, err = unix.Socket(family, sort|unix.SOCK_CLOEXEC, proto)
		return err
	})
	w.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// setting is one option that a program sets.
type setting struct {
	level, name int
	value       []byte
}

func number(level, name, value int) setting {
	return setting{level, name, binary.NativeEndian.AppendUint32(nil, uint32(value))}
}

var ipSettings = []setting{
	number(unix.SOL_SOCKET, unix.SO_MARK, 7), number(unix.SOL_SOCKET, unix.SO_PRIORITY, 3),
	number(unix.SOL_SOCKET, unix.SO_BUSY_POLL, 50), number(unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 123456),
	number(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1), number(unix.SOL_SOCKET, unix.SO_TIMESTAMPING, 0x18), number(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
	number(unix.IPPROTO_IP, unix.IP_TOS, 0x28), number(unix.IPPROTO_IP, unix.IP_TTL, 33), number(unix.IPPROTO_IP, unix.IP_MINTTL, 5),
	number(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE), number(unix.IPPROTO_IP, unix.IP_RECVERR, 1),
	number(unix.IPPROTO_IP, unix.IP_RECVTOS, 1), number(unix.IPPROTO_IP, unix.IP_RECVTTL, 1), number(unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
	number(unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, 1), number(unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1),
	number(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
}

var castSettings = []setting{
	number(unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 9), number(unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0), number(unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
}

var ip6Settings = []setting{
	number(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0x28), number(unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 12),
	number(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1), number(unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1), number(unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1),
	number(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1), number(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
	number(unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1), number(unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL, 0), number(unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, 4),
}

var tcpSettings = []setting{
	{unix.IPPROTO_TCP, unix.TCP_CONGESTION, []byte("reno")},
	number(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 7), number(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 5), number(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 4321),
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_KEY, []byte("0123456789abcdef")},
	number(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 9999), number(unix.IPPROTO_TCP, unix.TCP_SYNCNT, 3), number(unix.IPPROTO_TCP, unix.TCP_LINGER2, 11),
	number(unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, 33333), number(unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 1), number(unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1000),
	number(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 70), number(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1), number(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
	number(unix.SOL_SOCKET, unix.SO_INCOMING_CPU, 0), number(unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1),
}

var udpSettings = []setting{
	number(unix.IPPROTO_UDP, 103, 1200), number(unix.IPPROTO_UDP, 104, 1), number(unix.IPPROTO_UDP, unix.UDP_ENCAP, 2),
	number(unix.SOL_SOCKET, unix.SO_NO_CHECK, 1), number(unix.SOL_SOCKET, unix.SO_BROADCAST, 1), number(unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1),
	{unix.SOL_SOCKET, unix.SO_TXTIME, make([]byte, 8)},
	number(unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0),
}

// TestOptionsComeBack reads what a program has set, of every kind of socket, and gives it
// to a new one in another namespace, where devices have other numbers.
func TestOptionsComeBack(t *testing.T) {
	join := func(lists ...[]setting) (all []setting) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for name, tt := range map[string]struct {
		family, sort, proto int
		settings            []setting
		listen              bool
	}{
		"tcp":          {unix.AF_INET, unix.SOCK_STREAM, 0, join(ipSettings, tcpSettings), false},
		"tcp listener": {unix.AF_INET, unix.SOCK_STREAM, 0, join(ipSettings, tcpSettings), true},
		"tcp6":         {unix.AF_INET6, unix.SOCK_STREAM, 0, join(ipSettings, ip6Settings, tcpSettings), true},
		"udp":          {unix.AF_INET, unix.SOCK_DGRAM, 0, join(ipSettings, castSettings, udpSettings), false},
		"udp6": {unix.AF_INET6, unix.SOCK_DGRAM, 0, join(ipSettings, castSettings, ip6Settings, udpSettings, []setting{
			number(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 8), number(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0),
		}), false},
		"raw": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, join(ipSettings, castSettings, []setting{number(unix.SOL_RAW, 1, 255)}), false},
		"netlink": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, []setting{
			number(unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1), number(unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1), number(unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
			number(unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1), number(unix.SOL_NETLINK, unix.NETLINK_PKTINFO, 1), number(unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1),
		}, false},
		"unix": {unix.AF_UNIX, unix.SOCK_STREAM, 0, []setting{number(unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0), number(unix.SOL_SOCKET, unix.SO_RCVLOWAT, 9)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newWorld(t), newWorld(t, "one", "two")
			fd := from.socket(tt.family, tt.sort, tt.proto)
			for _, s := range tt.settings {
				err := sockopt.Set(fd, s.level, s.name, s.value)
				qt.Assert(t, qt.IsNil(err), qt.Commentf("option %d of level %d", s.name, s.level))
			}
			qt.Assert(t, qt.IsNil(unix.Fchown(fd, 33, 34)))
			if tt.listen {
				qt.Assert(t, qt.IsNil(unix.Listen(fd, 5)))
			}
			saved := read(t, from, fd)
			copied := to.socket(tt.family, tt.sort, tt.proto)
			if tt.listen {
				qt.Assert(t, qt.IsNil(unix.Listen(copied, 5)))
			}
			qt.Assert(t, qt.HasLen(saved.Apply(copied, to.devices), 0))
			again := read(t, to, copied)
			again.What = saved.What // the port
			qt.Check(t, qt.CmpEquals(again, saved, cmpopts.EquateComparable(netip.Addr{})))
			for _, s := range tt.settings {
				var want, got [64]byte
				w, err := sockopt.Get(fd, s.level, s.name, want[:])
				qt.Assert(t, qt.IsNil(err))
				g, err := sockopt.Get(copied, s.level, s.name, got[:])
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.DeepEquals(g, w), qt.Commentf("option %d of level %d", s.name, s.level))
			}
		})
	}
}

// read reads a socket, and proves that it can be written down.
func read(t *testing.T, w *world, fd int) sockopt.Socket {
	t.Helper()
	s, ok, err := sockopt.NewReader(w.ns).Read(fd)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(ok))
	s.PID, s.FD = 1, 3
	b, err := sockopt.Encode(sockopt.Saved{Sockets: []sockopt.Socket{*s}})
	qt.Assert(t, qt.IsNil(err))
	back, err := sockopt.Decode(b)
	qt.Assert(t, qt.IsNil(err))
	return back.Sockets[0]
}

// TestNewSocketIsUsual has nothing to keep of sockets that nobody has changed.
func TestNewSocketIsUsual(t *testing.T) {
	w := newWorld(t)
	r := sockopt.NewReader(w.ns)
	for _, fd := range []int{
		w.socket(unix.AF_INET, unix.SOCK_STREAM, 0), w.socket(unix.AF_INET6, unix.SOCK_STREAM, 0), w.socket(unix.AF_INET, unix.SOCK_DGRAM, 0),
		w.socket(unix.AF_INET6, unix.SOCK_DGRAM, 0), w.socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), w.socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	} {
		s, ok, err := r.Read(fd)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsFalse(ok), qt.Commentf("%+v", s))
		if s.What[0] == 't' {
			qt.Assert(t, qt.IsNil(unix.Listen(fd, 5)))
			s, ok, err = r.Read(fd)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.IsFalse(ok), qt.Commentf("listening: %+v", s))
		}
	}
}

// TestGroupsComeBack joins groups in every way, and tells which socket has joined which.
func TestGroupsComeBack(t *testing.T) {
	from, to := newWorld(t), newWorld(t, "one", "two")
	eth := func(w *world) string { return string(binary.NativeEndian.AppendUint32(nil, uint32(w.devices["eth0"]))) }
	fd, other := from.socket(unix.AF_INET6, unix.SOCK_DGRAM, 0), from.socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	mreq := &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: int32(from.devices["eth0"])}
	qt.Assert(t, qt.IsNil(unix.SetsockoptIPMreqn(other, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)))
	mreq.Multiaddr[3] = 77
	qt.Assert(t, qt.IsNil(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)))
	group6 := netip.MustParseAddr("ff02::fb")
	mreq6 := &unix.IPv6Mreq{Multiaddr: group6.As16(), Interface: uint32(from.devices["eth0"])}
	qt.Assert(t, qt.IsNil(unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq6)))
	qt.Assert(t, qt.IsNil(sockopt.Set(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, []byte(eth(from)))))
	// Of one source alone: struct ip_mreq_source is group, device's address, source.
	one := []byte{232, 1, 2, 3, 10, 99, 0, 1, 10, 99, 0, 9}
	qt.Assert(t, qt.IsNil(sockopt.Set(other, unix.IPPROTO_IP, unix.IP_ADD_SOURCE_MEMBERSHIP, one)))
	but := []byte{224, 0, 0, 251, 10, 99, 0, 1, 10, 99, 0, 8}
	qt.Assert(t, qt.IsNil(sockopt.Set(other, unix.IPPROTO_IP, unix.IP_BLOCK_SOURCE, but)))

	for _, tt := range []struct {
		fd, family int
		want       []sockopt.Group
	}{
		{fd, unix.AF_INET6, []sockopt.Group{
			{Address: netip.MustParseAddr("224.0.0.77"), Device: "eth0", Exclude: true},
			{Address: group6, Device: "eth0", Exclude: true},
		}},
		{other, unix.AF_INET, []sockopt.Group{
			{Address: netip.MustParseAddr("232.1.2.3"), Device: "eth0", Sources: []netip.Addr{netip.MustParseAddr("10.99.0.9")}},
			{Address: netip.MustParseAddr("224.0.0.251"), Device: "eth0", Exclude: true, Sources: []netip.Addr{netip.MustParseAddr("10.99.0.8")}},
		}},
	} {
		saved := read(t, from, tt.fd)
		same := cmpopts.EquateComparable(netip.Addr{})
		order := cmpopts.SortSlices(func(a, b sockopt.Group) bool { return a.Address.Less(b.Address) })
		qt.Check(t, qt.CmpEquals(saved.Groups, tt.want, same, order))
		copied := to.socket(tt.family, unix.SOCK_DGRAM, 0)
		qt.Assert(t, qt.HasLen(saved.Apply(copied, to.devices), 0))
		again := read(t, to, copied)
		qt.Check(t, qt.CmpEquals(again, saved, same, order))
	}
}

// TestWhatCannotBeSet is told for each, and the rest is set.
func TestWhatCannotBeSet(t *testing.T) {
	from, to := newWorld(t, "tap9"), newWorld(t)
	fd := from.socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	mreq := &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: int32(from.devices["tap9"])}
	qt.Assert(t, qt.IsNil(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)))
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 9)))
	saved := read(t, from, fd)
	copied := to.socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	errs := saved.Apply(copied, to.devices)
	qt.Assert(t, qt.HasLen(errs, 1))
	qt.Check(t, qt.ErrorMatches(errs[0], "multicast group 224.0.0.251 at tap9: there is no such device: tap9"))
	ttl, err := unix.GetsockoptInt(copied, unix.IPPROTO_IP, unix.IP_TTL)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(ttl, 9))
}

// TestShared names the ports that several sockets share.
func TestShared(t *testing.T) {
	w := newWorld(t)
	r := sockopt.NewReader(w.ns)
	for i, port := range []int{700, 700, 701} {
		fd := w.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)))
		qt.Assert(t, qt.IsNil(unix.Bind(fd, &unix.SockaddrInet4{Port: port})), qt.Commentf("socket %d", i))
		_, _, err := r.Read(fd)
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Check(t, qt.DeepEquals(r.Shared(), []string{"tcp 0.0.0.0:700"}))
}

// FuzzDecode reads anything: it is refused, or can be written again.
func FuzzDecode(f *testing.F) {
	b, err := sockopt.Encode(sockopt.Saved{Sockets: []sockopt.Socket{{
		PID: 1, FD: 3, What: "udp", Options: []sockopt.Option{{Level: unix.IPPROTO_IP, Name: unix.IP_TTL, Value: []byte{1, 0, 0, 0}}},
		Groups: []sockopt.Group{{Address: netip.MustParseAddr("224.0.0.1"), Device: "eth0", Sources: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
	}}})
	qt.Assert(f, qt.IsNil(err))
	f.Add(b)
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := sockopt.Decode(b)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, sockopt.ErrMalformed))
			return
		}
		again, err := sockopt.Encode(s)
		qt.Assert(t, qt.IsNil(err))
		_, err = sockopt.Decode(again)
		qt.Assert(t, qt.IsNil(err))
	})
}
