package wireguard_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
)

// capture returns a socket that has every frame on a host's device from now on.
func (p *place) capture(t *testing.T, device string) (fd int) {
	t.Helper()
	qt.Assert(t, qt.IsNil(p.Do(func() (err error) {
		d, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: d.Index})
	})))
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// Nobody on the underlay reads what apps say to each other.
func TestSecret(t *testing.T) { everywhere(t, testSecret) }

func testSecret(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.echo(t)
	frames := w.alpha.capture(t, w.cables[0].device)
	secret := []byte("nobody else is to read this, whoever it is")
	for _, to := range b.both() {
		c, err := a.DialContext(t.Context(), "udp", net.JoinHostPort(to.String(), "9"))
		qt.Assert(t, qt.IsNil(err))
		defer c.Close()
		_, err = c.Write(secret)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(c.SetReadDeadline(time.Now().Add(10*time.Second))))
		got := make([]byte, 100)
		n, err := c.Read(got)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(got[:n], secret))
	}
	buf, seen := make([]byte, 1<<16), 0
	for {
		n, _, err := unix.Recvfrom(frames, buf, 0)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, error(unix.EAGAIN))) // that was all
			break
		}
		qt.Check(t, qt.IsFalse(bytes.Contains(buf[:n], secret)))
		qt.Check(t, qt.IsFalse(bytes.Contains(buf[:n], secret[:16])))
		seen++
	}
	qt.Check(t, qt.IsTrue(seen >= 6), qt.Commentf("%d frames", seen)) // a handshake, and two each way
}

// Who is no known host gets nothing into the network, and a known one nothing that says it comes
// from where it has no endpoint.
func TestStrangers(t *testing.T) { everywhere(t, testStrangers) }

func testStrangers(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
	w.use(0)
	a, b, c := w.attach(w.alpha, 2), w.attach(w.beta, 3), w.attach(w.alpha, 4)
	in := b.listenPacket(t, "9")
	send := func(from app, text string) {
		t.Helper()
		c, err := from.DialContext(t.Context(), "udp", net.JoinHostPort(b.ep.Addr4.String(), "9"))
		qt.Assert(t, qt.IsNil(err))
		defer c.Close()
		_, err = c.Write([]byte(text))
		qt.Assert(t, qt.IsNil(err))
	}
	received := func(text string) {
		t.Helper()
		qt.Assert(t, qt.IsNil(in.SetReadDeadline(time.Now().Add(10*time.Second))))
		buf := make([]byte, 100)
		n, _, err := in.ReadFrom(buf)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(buf[:n]), text))
	}
	send(c, "hello")
	received("hello")
	// An endpoint that beta knows nothing of: what it sends is dropped, and comes in no later.
	qt.Assert(t, qt.IsNil(w.beta.m.RemoveRoutes(t.Context(), c.both())))
	send(c, "stranger")
	send(a, "friend")
	received("friend")
	w.route(w.alpha, c.ep, channel.Opening)
	send(c, "friend again")
	received("friend again")

	h := w.host(w.beta, w.cables[0])
	port, _, err := w.beta.m.Offer(t.Context())
	qt.Assert(t, qt.IsNil(err))
	stranger := netip.MustParseAddr("192.0.2.9")
	w.alpha.ip(t, "addr", "add", stranger.String()+"/24", "dev", w.cables[0].device)
	for _, from := range []netip.Addr{stranger, h.Remote} {
		junk, err := w.alpha.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(from, 0).String())
		qt.Assert(t, qt.IsNil(err))
		defer junk.Close()
		for _, payload := range [][]byte{nil, {4}, bytes.Repeat([]byte{1}, 148), bytes.Repeat([]byte{4, 0, 0, 0}, 30)} {
			_, err = junk.WriteTo(payload, net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.Local, port)))
			qt.Assert(t, qt.IsNil(err))
		}
	}
	send(a, "still here")
	received("still here")
	report, err := w.beta.m.Report(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(report.Drops.Stranger, 4))
}
