package redirect_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
)

// packet4 makes an IPv4 packet. The kernel fills in its checksum when it is sent.
func packet4(from, to netip.Addr, tos, proto byte, payload []byte) []byte {
	p := make([]byte, 20, 20+len(payload))
	p[0], p[1], p[8], p[9] = 0x45, tos, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	src, dst := from.As4(), to.As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[10:], ^sum(p))
	return append(p, payload...)
}

// sum is the Internet checksum before it is inverted (RFC 1071).
func sum(p []byte) uint16 {
	var s uint32
	for i := 0; i < len(p); i += 2 {
		s += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// datagram4 makes a packet for port 9, without a checksum of UDP.
func datagram4(from, to netip.Addr, tos byte, text string) []byte {
	udp := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(udp[0:], 9)
	binary.BigEndian.PutUint16(udp[2:], 9)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(text)))
	return packet4(from, to, tos, unix.IPPROTO_UDP, append(udp, text...))
}

// raw sends a packet with its IPv4 header from the host, by the host's routes.
func (p *place) raw(t *testing.T, packet []byte) {
	t.Helper()
	qt.Assert(t, qt.IsNil(p.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])})
	})))
}

// receiver is a UDP socket at port 9 of an app.
func receiver(t *testing.T, a app) (fd int) {
	t.Helper()
	fd = a.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1)))
	qt.Assert(t, qt.IsNil(unix.Bind(fd, &unix.SockaddrInet4{Port: 9})))
	return fd
}

// received returns the text of the next datagram and its class of service.
func received(t *testing.T, fd int) (text string, tos byte) {
	t.Helper()
	buf, oob := make([]byte, 2000), make([]byte, 100)
	n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
	qt.Assert(t, qt.IsNil(err))
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	qt.Assert(t, qt.IsNil(err))
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS {
			tos = m.Data[0]
		}
	}
	return string(buf[:n]), tos
}

// dropped waits until so many packets have been dropped.
func (p *place) dropped(t *testing.T, want channel.Drops) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.Tick(time.Millisecond); ; <-tick {
		report, err := p.m.Report(t.Context())
		qt.Assert(t, qt.IsNil(err))
		if report.Drops == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("dropped %+v, want %+v", report.Drops, want)
		}
	}
}

// Who is no known host gets nothing into the network, whatever source is inside, and a known
// one only what it says it sends.
func TestStrangers(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Tunnel)
	h := w.host(w.beta, w.cables[0], channel.Tunnel)
	h.Accept = nil
	qt.Assert(t, qt.IsNil(w.beta.m.SetHost(t.Context(), h)))
	a, b, c := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3)), w.attach(w.beta, endpoint(4))
	known, stranger, beta := h.Remote, netip.MustParseAddr("192.0.2.9"), h.Local
	w.alpha.ip(t, "addr", "add", stranger.String()+"/24", "dev", w.cables[0].device)
	fd := receiver(t, b)
	inner := func(text string) []byte { return datagram4(a.ep.Addr4, b.ep.Addr4, 0, text) }

	w.alpha.raw(t, packet4(stranger, beta, 0, unix.IPPROTO_IPIP, inner("from a stranger")))
	w.beta.dropped(t, channel.Drops{Stranger: 1})
	// Not for the network, or not an IP packet inside: another tunnel's, or nobody's.
	w.alpha.raw(t, packet4(stranger, beta, 0, unix.IPPROTO_IPIP, datagram4(a.ep.Addr4, netip.MustParseAddr("10.99.0.1"), 0, "elsewhere")))
	w.alpha.raw(t, packet4(known, beta, 0, unix.IPPROTO_IPIP, []byte("short")))
	w.alpha.raw(t, packet4(known, beta, 0, unix.IPPROTO_IPV6, inner("IPv4 as IPv6, which has 40 bytes at least")))
	// Forged as from an endpoint of beta itself.
	w.alpha.raw(t, packet4(known, beta, 0, unix.IPPROTO_IPIP, datagram4(c.ep.Addr4, b.ep.Addr4, 0, "forged")))
	// As it is, which beta does not accept.
	w.alpha.ip(t, "route", "add", b.ep.Addr4.String(), "via", beta.String())
	w.alpha.raw(t, inner("without a tunnel"))
	w.beta.dropped(t, channel.Drops{Stranger: 1, Refused: 1})

	w.alpha.raw(t, packet4(known, beta, 0, unix.IPPROTO_IPIP, inner("from alpha")))
	text, _ := received(t, fd)
	qt.Check(t, qt.Equals(text, "from alpha"))
	w.beta.dropped(t, channel.Drops{Stranger: 1, Refused: 1})

	qt.Assert(t, qt.IsNil(w.beta.m.RemoveHost(t.Context(), "alpha")))
	w.alpha.raw(t, packet4(known, beta, 0, unix.IPPROTO_IPIP, inner("from a host that was removed")))
	w.beta.dropped(t, channel.Drops{Stranger: 2, Refused: 1})
}

// An endpoint that this host was not told of sends to it without an outer header, by the way that its
// host has. That is let in as long as some host may send so.
func TestUnknownSource(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Direct)
	b := w.attach(w.beta, endpoint(3))
	fd := receiver(t, b)
	h := w.host(w.beta, w.cables[0], channel.Direct)
	w.alpha.ip(t, "route", "add", b.ep.Addr4.String(), "via", h.Local.String())
	send := func(text string) { w.alpha.raw(t, datagram4(netip.MustParseAddr("10.77.0.99"), b.ep.Addr4, 0, text)) }
	send("from the start")
	text, _ := received(t, fd)
	qt.Check(t, qt.Equals(text, "from the start"))

	h.Kind, h.Accept = channel.Tunnel, nil
	qt.Assert(t, qt.IsNil(w.beta.m.SetHost(t.Context(), h)))
	send("when nobody may")
	h.Accept = []channel.Kind{channel.Direct}
	qt.Assert(t, qt.IsNil(w.beta.m.SetHost(t.Context(), h)))
	send("when one may again")
	text, _ = received(t, fd)
	qt.Check(t, qt.Equals(text, "when one may again"))
	qt.Assert(t, qt.IsNil(w.beta.m.RemoveHost(t.Context(), "alpha")))
	send("when there is none")
	qt.Assert(t, qt.IsNil(w.beta.m.SetHost(t.Context(), h)))
	send("the last one")
	text, _ = received(t, fd)
	qt.Check(t, qt.Equals(text, "the last one"))
}

// Congestion that a router of the underlay marks gets to the endpoint (RFC 6040).
func TestCongestion(t *testing.T) {
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Tunnel)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	local, remote := w.ends(w.alpha, w.cables[0])
	fd := receiver(t, b)
	for _, x := range []struct{ outer, inner, want byte }{
		{notECT, notECT, notECT},
		{notECT, ect0, ect0},
		{notECT, ce, ce},
		{ect0, ect0, ect0},
		{ect1, ect1, ect1},
		{ce, ect0, ce},
		{ce, ect1, ce},
		{ce, ce, ce},
	} {
		const class = 0xb8 // expedited forwarding: inside it stays
		w.alpha.raw(t, packet4(local, remote, x.outer, unix.IPPROTO_IPIP, datagram4(a.ep.Addr4, b.ep.Addr4, class|x.inner, "hello")))
		text, tos := received(t, fd)
		qt.Check(t, qt.Equals(text, "hello"))
		qt.Check(t, qt.Equals(tos, class|x.want), qt.Commentf("%+v", x))
	}
	w.alpha.raw(t, packet4(local, remote, ce, unix.IPPROTO_IPIP, datagram4(a.ep.Addr4, b.ep.Addr4, notECT, "lost")))
	w.beta.dropped(t, channel.Drops{Congested: 1})
}

// What is on the wire.
func TestOuterHeader(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Tunnel)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	local, remote := w.ends(w.alpha, w.cables[0])
	var wire int
	qt.Assert(t, qt.IsNil(w.beta.Do(func() (err error) {
		// Only sockets for all protocols see a packet before tc does. In network byte order,
		// packet(7).
		wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.ETH_P_ALL<<8)
		return err
	})))
	defer unix.Close(wire)
	timeout := unix.Timeval{Sec: 10}
	qt.Assert(t, qt.IsNil(unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)))

	fd := a.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	const ect0, class, ttl = 2, 0xb8, 7
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, class|ect0)))
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl)))
	qt.Assert(t, qt.IsNil(unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrInet4{Addr: b.ep.Addr4.As4(), Port: 9})))
	packet := make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(wire, packet, 0)
		qt.Assert(t, qt.IsNil(err))
		if n > 20 && packet[9] == unix.IPPROTO_IPIP {
			packet = packet[:n]
			break
		}
	}
	outer, inner := packet[:20], packet[20:]
	qt.Check(t, qt.Equals(sum(outer), 0xffff), qt.Commentf("% x", outer))
	qt.Check(t, qt.Equals(int(binary.BigEndian.Uint16(outer[2:])), len(packet)))
	qt.Check(t, qt.Equals(outer[1], byte(ect0)))
	qt.Check(t, qt.Equals(outer[8], byte(64)))
	qt.Check(t, qt.Equals(outer[6], byte(0x40))) // don't fragment
	qt.Check(t, qt.Equals(netip.AddrFrom4([4]byte(outer[12:16])), local))
	qt.Check(t, qt.Equals(netip.AddrFrom4([4]byte(outer[16:20])), remote))
	qt.Check(t, qt.Equals(inner[1], byte(class|ect0)))
	qt.Check(t, qt.Equals(inner[8], byte(ttl)))
	qt.Check(t, qt.Equals(netip.AddrFrom4([4]byte(inner[16:20])), b.ep.Addr4))
}
