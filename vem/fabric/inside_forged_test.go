package fabric_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// A clone sends from its inside address or not at all: not even from the address
// that others know it by.
func TestCloneForgedSource(t *testing.T) {
	for name, forged := range map[string]string{
		"own outside":       "10.77.0.2",
		"another clone's":   "10.77.0.3",
		"another's":         "10.77.0.6",
		"nobody's":          "10.77.0.99",
		"abroad":            "198.51.100.1",
		"own outside, IPv6": "fd77::2",
		"another's, IPv6":   "fd77::3",
		"nobody's, IPv6":    "fd77::99",
		"abroad, IPv6":      "2001:db8:9::1",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			f := open(t, cfg)
			one := attach(t, f, clone(2))
			attach(t, f, clone(3))
			attach(t, f, ep(6))
			forged, own, family := netip.MustParseAddr(forged), inside.Addr4, 0
			if forged.Is6() {
				own, family = inside.Addr6, 1
			}
			h := handle(t, one)
			lo, err := h.LinkByName("lo")
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(h.AddrAdd(lo, &netlink.Addr{
				IPNet: &net.IPNet{IP: forged.AsSlice(), Mask: net.CIDRMask(forged.BitLen(), forged.BitLen())}, Flags: unix.IFA_F_NODAD,
			})))
			for to, ns := range map[string]*netns.NS{
				[]string{"10.77.0.5:9", "[fd77::5]:9"}[family]: attach(t, f, ep(5)),
				[]string{"10.77.0.1:9", "[fd77::1]:9"}[family]: cfg.Host,
			} {
				got := receiveWord(t, ns, to)
				sendWord(t, one, forged, to, "forged")
				// Same path, same order: when this one is there, the forged one was lost.
				sendWord(t, one, own, to, "own")
				qt.Check(t, qt.Equals(<-got, "own"), qt.Commentf(to))
			}
		})
	}
}

// VLAN tags, of which the kernel takes one off before and one behind the program, do
// not hide a packet from it.
func TestCloneForgedTags(t *testing.T) {
	f := open(t, testConfig(t))
	one, two := attach(t, f, clone(2)), attach(t, f, ep(5))
	got := receiveWord(t, two, "10.77.0.5:9")
	sendTagged(t, one, netip.MustParseAddr("10.77.0.2"), netip.MustParseAddrPort("10.77.0.5:9"), "forged")
	sendWord(t, one, inside.Addr4, "10.77.0.5:9", "own")
	qt.Check(t, qt.Equals(<-got, "own"))
}

// receiveWord returns the first datagram that arrives at addr in ns, or nothing
// after three seconds.
func receiveWord(t *testing.T, ns *netns.NS, addr string) <-chan string {
	t.Helper()
	var c net.PacketConn
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(t.Context(), "udp", addr)
		return err
	})))
	qt.Assert(t, qt.IsNil(c.SetReadDeadline(time.Now().Add(3*time.Second))))
	got, done := make(chan string, 1), make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		defer close(got)
		buf := make([]byte, 100)
		if n, _, err := c.ReadFrom(buf); err == nil {
			got <- string(buf[:n])
		}
	}()
	return got
}

// sendWord sends a datagram from one of the addresses of ns.
func sendWord(t *testing.T, ns *netns.NS, from netip.Addr, to, word string) {
	t.Helper()
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		c, err := d.DialContext(t.Context(), "udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(word))
		return err
	})))
}

// sendTagged sends an IPv4 datagram through eth0 with two empty VLAN tags before it.
func sendTagged(t *testing.T, ns *netns.NS, from netip.Addr, to netip.AddrPort, word string) {
	t.Helper()
	link, err := handle(t, ns).LinkByName("eth0")
	qt.Assert(t, qt.IsNil(err))
	order := binary.BigEndian
	frame := []byte{0x02, 0x73, 0, 0, 0, 1} // the fabric's end
	frame = append(frame, link.Attrs().HardwareAddr...)
	for range 2 {
		frame = order.AppendUint16(frame, unix.ETH_P_8021Q)
		frame = order.AppendUint16(frame, 0)
	}
	frame = order.AppendUint16(frame, unix.ETH_P_IP)
	udpLen := 8 + len(word)
	head := ipv4.Header{
		Version: 4, Len: 20, TotalLen: 20 + udpLen, TTL: 64, Protocol: unix.IPPROTO_UDP,
		Src: from.AsSlice(), Dst: to.Addr().AsSlice(),
	}
	raw, err := head.Marshal()
	qt.Assert(t, qt.IsNil(err))
	var sum uint32
	for i := 0; i < len(raw); i += 2 {
		sum += uint32(order.Uint16(raw[i:]))
	}
	order.PutUint16(raw[10:], ^uint16(sum+sum>>16))
	frame = append(frame, raw...)
	for _, v := range []uint16{9, to.Port(), uint16(udpLen), 0} {
		frame = order.AppendUint16(frame, v)
	}
	frame = append(frame, word...)
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6})
	})))
}
