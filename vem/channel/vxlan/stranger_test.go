package vxlan_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
)

// inner makes an IPv4 datagram for port 9, without a checksum of UDP.
func inner(from, to netip.Addr, text string) []byte {
	p := make([]byte, 28, 28+len(text))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(text)))
	src, dst := from.As4(), to.As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[20:], 9)
	binary.BigEndian.PutUint16(p[22:], 9)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(text)))
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	return append(p, text...)
}

// frame is what is in a VXLAN packet's UDP datagram: the network's number, and an Ethernet frame
// for a device.
func frame(number uint32, to net.HardwareAddr, packet []byte) []byte {
	p := []byte{8, 0, 0, 0}
	p = binary.BigEndian.AppendUint32(p, number<<8)
	p = append(p, to...)
	p = append(p, 2, 0, 0, 0, 0, 9) // from any
	return append(append(p, 8, 0), packet...)
}

// hardwareOf is the address of a host's device.
func (p *place) hardwareOf(t *testing.T) (a net.HardwareAddr) {
	t.Helper()
	qt.Assert(t, qt.IsNil(p.f.Namespace().Do(func() error {
		d, err := net.InterfaceByName("vxlan0")
		if err == nil {
			a = d.HardwareAddr
		}
		return err
	})))
	return a
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

// Who is no known host gets nothing into the network, whatever source is inside, and a known one
// nothing that says it comes from here or from elsewhere.
func TestStrangers(t *testing.T) {
	const number = 10<<16 | 77<<8
	w := newWorld(t, 1500, "192.0.2.0/24", "198.51.100.0/24")
	qt.Assert(t, qt.IsNil(w.beta.m.SetUnderlay(t.Context(), w.underlay(w.beta)[:1])))
	w.use(0)
	h := w.host(w.beta, w.cables[0])
	h.Sources = nil
	qt.Assert(t, qt.IsNil(w.beta.m.SetHost(t.Context(), h)))
	a, b, c := w.attach(w.alpha, 2), w.attach(w.beta, 3), w.attach(w.beta, 4)
	known, stranger, beta := h.Remote, netip.MustParseAddr("192.0.2.9"), h.Local
	w.alpha.ip(t, "addr", "add", stranger.String()+"/24", "dev", w.cables[0].device)
	in := b.listenPacket(t, "9")
	to := w.beta.hardwareOf(t)
	send := func(from, at netip.Addr, payload []byte) {
		t.Helper()
		c, err := w.alpha.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(from, 0).String())
		qt.Assert(t, qt.IsNil(err))
		defer c.Close()
		_, err = c.WriteTo(payload, net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 7077)))
		qt.Assert(t, qt.IsNil(err))
	}
	good := frame(number, to, inner(a.ep.Addr4, b.ep.Addr4, "hello"))
	received := func(text string) {
		t.Helper()
		qt.Assert(t, qt.IsNil(in.SetReadDeadline(time.Now().Add(10*time.Second))))
		buf := make([]byte, 100)
		n, _, err := in.ReadFrom(buf)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(buf[:n]), text))
	}

	send(stranger, beta, good)
	w.beta.dropped(t, channel.Drops{Stranger: 1})
	// By a device that is none of the underlay's, from an address that alpha has but did not say.
	_, elsewhere := w.ends(w.beta, w.cables[1])
	local, _ := w.ends(w.beta, w.cables[1])
	send(elsewhere, local, good)
	w.beta.dropped(t, channel.Drops{Stranger: 2})
	// Another network's, too short, and none at all: nobody's.
	send(known, beta, frame(number+256, to, inner(a.ep.Addr4, b.ep.Addr4, "other network")))
	send(known, beta, good[:10])
	send(known, beta, nil)
	// As from an endpoint of beta itself, from beta, and from and to the outside.
	host := netip.MustParseAddr("10.77.0.1")
	for _, forged := range [][2]netip.Addr{
		{c.ep.Addr4, b.ep.Addr4}, {host, b.ep.Addr4}, {netip.MustParseAddr("203.0.113.1"), b.ep.Addr4}, {a.ep.Addr4, beta},
	} {
		send(known, beta, frame(number, to, inner(forged[0], forged[1], "forged")))
	}
	w.beta.dropped(t, channel.Drops{Stranger: 2, Refused: 4})
	send(known, beta, good)
	received("hello")

	// Somebody loads other rules into the host's firewall: nothing gets in from anybody.
	conn, err := nftables.New(nftables.WithNetNSFd(int(w.beta.Net().File().Fd())))
	qt.Assert(t, qt.IsNil(err))
	conn.DelTable(&nftables.Table{Name: "snapctl-vxlan-default", Family: nftables.TableFamilyINet})
	qt.Assert(t, qt.IsNil(conn.Flush()))
	send(stranger, beta, good)
	send(known, beta, good)
	w.beta.awaitRefused(t, 6)
	w.beta.dropped(t, channel.Drops{Refused: 6}) // and now the table is back
	send(stranger, beta, good)
	w.beta.dropped(t, channel.Drops{Stranger: 1, Refused: 6})
	send(known, beta, frame(number, to, inner(a.ep.Addr4, b.ep.Addr4, "again")))
	received("again")

	qt.Assert(t, qt.IsNil(w.beta.m.SetHost(t.Context(), channel.Host{Name: "gamma", Kind: channel.VXLAN, Local: beta, Remote: netip.MustParseAddr("192.0.2.77")})))
	qt.Assert(t, qt.IsNil(w.beta.m.RemoveHost(t.Context(), "alpha")))
	send(known, beta, good)
	w.beta.dropped(t, channel.Drops{Stranger: 2, Refused: 6})
}

// awaitRefused waits until the fabric's table has dropped so many packets.
func (p *place) awaitRefused(t *testing.T, want uint64) {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(p.f.Namespace().File().Fd())))
	qt.Assert(t, qt.IsNil(err))
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.Tick(time.Millisecond); ; <-tick {
		list, err := conn.GetObjects(&nftables.Table{Name: "snapctl-vxlan", Family: nftables.TableFamilyINet})
		qt.Assert(t, qt.IsNil(err))
		for _, o := range list {
			if c, ok := o.(*nftables.CounterObj); ok && c.Packets == want {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v", list)
		}
	}
}
