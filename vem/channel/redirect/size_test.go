package redirect_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/netns"
)

// datagrams is a UDP socket in an app that is connected to a peer's port 9, may not be
// fragmented, and is answered with what it sends.
type datagrams struct {
	t         *testing.T
	fd        int
	header    int // of IP and UDP
	level     int
	mtuOption int
}

// echoAt answers datagrams at port 9 of an app.
func echoAt(t *testing.T, b app) {
	t.Helper()
	var c net.PacketConn
	qt.Assert(t, qt.IsNil(b.Do(func() (err error) {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(t.Context(), "udp", ":9")
		return err
	})))
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
}

func newDatagrams(t *testing.T, a app, to netip.Addr) datagrams {
	t.Helper()
	d := datagrams{t: t, header: 28, level: unix.IPPROTO_IP, mtuOption: unix.IP_MTU}
	discover := unix.IP_MTU_DISCOVER
	at, family := sockaddr(to, 9), unix.AF_INET
	if to.Is6() {
		d.header, d.level, d.mtuOption, discover = 48, unix.IPPROTO_IPV6, unix.IPV6_MTU, unix.IPV6_MTU_DISCOVER
		family = unix.AF_INET6
	}
	d.fd = a.socket(t, family, unix.SOCK_DGRAM, 0)
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(d.fd, d.level, discover, unix.IP_PMTUDISC_DO)))
	qt.Assert(t, qt.IsNil(unix.Connect(d.fd, at)))
	return d
}

// send sends a packet of so many bytes with all headers.
func (d datagrams) send(size int) error {
	return unix.Send(d.fd, bytes.Repeat([]byte{'x'}, size-d.header), 0)
}

// answered waits for the answer to a packet of that size.
func (d datagrams) answered(size int) {
	d.t.Helper()
	buf := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(d.fd, buf, 0)
	qt.Assert(d.t, qt.IsNil(err))
	qt.Check(d.t, qt.Equals(n+d.header, size))
}

// refused waits for the answer that nobody listens.
func (d datagrams) refused() {
	d.t.Helper()
	_, _, err := unix.Recvfrom(d.fd, make([]byte, 1), 0)
	qt.Check(d.t, qt.ErrorIs(err, error(unix.ECONNREFUSED)))
}

func (d datagrams) mtu() int {
	d.t.Helper()
	mtu, err := unix.GetsockoptInt(d.fd, d.level, d.mtuOption)
	qt.Assert(d.t, qt.IsNil(err))
	return mtu
}

// sizes are channels with room for the network's MTU and with less.
var sizes = map[string]struct {
	underlay string
	kind     channel.Kind
	mtu      int // of the underlay
	room     int // for a packet of the network
}{
	"direct":                  {"192.0.2.0/24", channel.Direct, 1500, networkMTU},
	"tunnel":                  {"192.0.2.0/24", channel.Tunnel, 1500, networkMTU},
	"direct, IPv6":            {"2001:db8::/64", channel.Direct, 1500, networkMTU},
	"tunnel, IPv6":            {"2001:db8::/64", channel.Tunnel, 1500, networkMTU},
	"narrow direct":           {"192.0.2.0/24", channel.Direct, 1400, 1380},
	"narrow tunnel":           {"192.0.2.0/24", channel.Tunnel, 1400, 1380},
	"narrow direct, IPv6":     {"2001:db8::/64", channel.Direct, 1400, 1360}, // room for what is always in a tunnel
	"narrow tunnel, IPv6":     {"2001:db8::/64", channel.Tunnel, 1400, 1360},
	"just right tunnel, IPv6": {"2001:db8::/64", channel.Tunnel, networkMTU + 40, networkMTU},
}

// A packet of full size is answered: by the peer if it fits, and by "too big" if not. It is
// never swallowed.
func TestFullSize(t *testing.T) {
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			w, a, b := sized(t, size.underlay, size.kind, size.mtu)
			status, err := w.alpha.m.Hosts(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(min(status["beta"].MTU, networkMTU), size.room))
			echoAt(t, b)
			for _, to := range []netip.Addr{b.ep.Addr4, b.ep.Addr6} {
				d := newDatagrams(t, a, to)
				qt.Check(t, qt.ErrorIs(d.send(networkMTU+1), error(unix.EMSGSIZE)))
				if size.room < networkMTU {
					// The first one is on its way before anybody knows, and the answer comes as
					// the socket's error.
					qt.Assert(t, qt.IsNil(d.send(size.room+1)))
					_, _, err := unix.Recvfrom(d.fd, make([]byte, 1), 0)
					qt.Assert(t, qt.ErrorIs(err, error(unix.EMSGSIZE)))
					qt.Check(t, qt.ErrorIs(d.send(size.room+1), error(unix.EMSGSIZE)))
				}
				qt.Assert(t, qt.IsNil(d.send(size.room)))
				d.answered(size.room)
				qt.Check(t, qt.Equals(d.mtu(), size.room))
			}
		})
	}
}

// sized is a world with an underlay of some MTU and an app on each host.
func sized(t *testing.T, underlay string, kind channel.Kind, mtu int) (w *world, a, b app) {
	t.Helper()
	w = newWorld(t, underlay)
	for _, p := range []*place{w.alpha, w.beta} {
		p.ip(t, "link", "set", w.cables[0].device, "mtu", strconv.Itoa(mtu))
		qt.Assert(t, qt.IsNil(p.m.SetUnderlay(t.Context(), w.underlay(p))))
	}
	w.use(0, kind)
	return w, w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
}

// TCP of full size passes, whoever splits it into segments.
func TestSegments(t *testing.T) {
	for name, size := range sizes {
		for _, splits := range []string{"receiver", "underlay", "sender"} {
			t.Run(name+", "+splits+" splits", func(t *testing.T) {
				w, a, b := sized(t, size.underlay, size.kind, size.mtu)
				switch splits {
				case "receiver": // nobody does, since all devices are veths
				case "underlay":
					for _, p := range []*place{w.alpha, w.beta} {
						noOffload(t, p.Net(), w.cables[0].device)
					}
				case "sender":
					noOffload(t, a.NS, "eth0")
					noOffload(t, b.NS, "eth0")
				}
				serve(t, b)
				for _, to := range []netip.Addr{b.ep.Addr4, b.ep.Addr6} {
					l := loadStreams(t, a, to)
					moved(t, l, 1<<20)
					stop(t, l)
				}
			})
		}
	}
}

// noOffload makes the kernel compute checksums and split segments before it gives them to a
// device.
func noOffload(t *testing.T, ns *netns.NS, device string) {
	t.Helper()
	// include/uapi/linux/ethtool.h
	const setTxChecksum, setGSO = 0x17, 0x24
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, command := range []uint32{setTxChecksum, setGSO} {
			value := struct{ command, data uint32 }{command, 0}
			request := struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}{data: unsafe.Pointer(&value)}
			copy(request.name[:], device)
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
				return errno
			}
		}
		return nil
	})), qt.Commentf(device))
}

// Large datagrams pass in fragments, and those that the sender leaves to the kernel to split
// (UDP_SEGMENT) pass whole.
func TestDatagrams(t *testing.T) {
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		for _, underlay := range []string{"192.0.2.0/24", "2001:db8::/64"} {
			t.Run(kind.String()+" over "+underlay, func(t *testing.T) {
				w := newWorld(t, underlay)
				w.use(0, kind)
				a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
				echoAt(t, b)
				for _, to := range []netip.Addr{b.ep.Addr4, b.ep.Addr6} {
					c, err := a.DialContext(t.Context(), "udp", net.JoinHostPort(to.String(), "9"))
					qt.Assert(t, qt.IsNil(err))
					t.Cleanup(func() { c.Close() })
					qt.Assert(t, qt.IsNil(c.SetDeadline(time.Now().Add(10*time.Second))))
					want := bytes.Repeat([]byte("0123456789abcdef"), 1000)
					_, err = c.Write(want)
					qt.Assert(t, qt.IsNil(err))
					got := make([]byte, 1<<16)
					n, err := c.Read(got)
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.IsTrue(bytes.Equal(got[:n], want)), qt.Commentf("%d bytes of %d", n, len(want)))

					d := newDatagrams(t, a, to)
					const each, count = 1000, 12
					qt.Assert(t, qt.IsNil(unix.SetsockoptInt(d.fd, unix.SOL_UDP, unix.UDP_SEGMENT, each)))
					qt.Assert(t, qt.IsNil(unix.Send(d.fd, want[:each*count], 0)))
					for i := range count {
						n, _, err := unix.Recvfrom(d.fd, got, 0)
						qt.Assert(t, qt.IsNil(err), qt.Commentf("datagram %d", i))
						qt.Check(t, qt.IsTrue(bytes.Equal(got[:n], want[i*each:(i+1)*each])), qt.Commentf("datagram %d: %d bytes", i, n))
					}
				}
			})
		}
	}
}

// What no socket of this kernel speaks passes as well.
func TestOtherProtocols(t *testing.T) {
	const sctp = 132
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, "192.0.2.0/24")
			w.use(0, kind)
			a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
			for _, proto := range []int{sctp, unix.IPPROTO_IPIP, unix.IPPROTO_GRE, 253} {
				from, to := a.socket(t, unix.AF_INET, unix.SOCK_RAW, proto), b.socket(t, unix.AF_INET, unix.SOCK_RAW, proto)
				text := bytes.Repeat([]byte("packet"), 100)
				qt.Assert(t, qt.IsNil(unix.Sendto(from, text, 0, &unix.SockaddrInet4{Addr: b.ep.Addr4.As4()})))
				got := make([]byte, 1<<16)
				n, sender, err := unix.Recvfrom(to, got, 0)
				qt.Assert(t, qt.IsNil(err), qt.Commentf("protocol %d", proto))
				qt.Check(t, qt.IsTrue(bytes.Equal(got[20:n], text)))
				qt.Check(t, qt.Equals(sender.(*unix.SockaddrInet4).Addr, a.ep.Addr4.As4()))
			}
			for _, to := range []netip.Addr{b.ep.Addr4, b.ep.Addr6} {
				a.ping(t, to)
			}
		})
	}
}

// What answers packets that are too big for a channel goes when no channel is that small any more, also
// if the daemon ended meanwhile.
func TestNarrowEnds(t *testing.T) {
	w, _, _ := sized(t, "192.0.2.0/24", channel.Tunnel, 1400)
	h := w.host(w.alpha, w.cables[0], channel.Tunnel)
	narrow := func() (list []string) {
		t.Helper()
		qt.Assert(t, qt.IsNil(w.alpha.f.Namespace().Do(func() error {
			rules, err := netlink.RuleList(unix.AF_UNSPEC)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Mark == 0 {
					continue
				}
				routes, err := netlink.RouteListFiltered(r.Family, &netlink.Route{Table: r.Table}, netlink.RT_FILTER_TABLE)
				if err != nil {
					return err
				}
				list = append(list, fmt.Sprint(r.Table, " ", len(routes)))
			}
			return nil
		})))
		return list
	}
	room := func(mtu int) {
		t.Helper()
		h.MTU = mtu
		qt.Assert(t, qt.IsNil(w.alpha.m.SetHost(t.Context(), h)))
	}
	qt.Check(t, qt.DeepEquals(narrow(), []string{"1380 1", "1380 1"})) // one of each family
	room(1350)
	qt.Check(t, qt.DeepEquals(narrow(), []string{"1330 1", "1330 1"}))
	w.alpha.close(t)
	w.alpha.open(t)
	qt.Check(t, qt.DeepEquals(narrow(), []string{"1330 1", "1330 1"}))
	w.alpha.ip(t, "link", "set", w.cables[0].device, "mtu", "1500")
	qt.Assert(t, qt.IsNil(w.alpha.m.SetUnderlay(t.Context(), w.underlay(w.alpha))))
	room(0)
	qt.Check(t, qt.HasLen(narrow(), 0))
	room(1300)
	qt.Check(t, qt.HasLen(narrow(), 2))
	qt.Assert(t, qt.IsNil(w.alpha.m.RemoveHost(t.Context(), h.Name)))
	qt.Check(t, qt.HasLen(narrow(), 0))
}
