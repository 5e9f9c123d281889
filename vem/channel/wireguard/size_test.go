package wireguard_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel/wireguard"
)

// checked is a UDP socket in an app that is connected to a peer's port 9, may not be fragmented,
// and is answered with what it sends.
type checked struct {
	t                 *testing.T
	fd, header, level int
	mtuOption         int
}

// echo answers checked at port 9 of an app.
func (a app) echo(t *testing.T) {
	t.Helper()
	c := a.listenPacket(t, "9")
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
}

func newChecked(t *testing.T, a app, to netip.Addr) checked {
	t.Helper()
	d := checked{t: t, header: 28, level: unix.IPPROTO_IP, mtuOption: unix.IP_MTU}
	family, discover := unix.AF_INET, unix.IP_MTU_DISCOVER
	var at unix.Sockaddr
	if to.Is6() {
		d.header, d.level, d.mtuOption = 48, unix.IPPROTO_IPV6, unix.IPV6_MTU
		family, discover = unix.AF_INET6, unix.IPV6_MTU_DISCOVER
		at = &unix.SockaddrInet6{Addr: to.As16(), Port: 9}
	} else {
		at = &unix.SockaddrInet4{Addr: to.As4(), Port: 9}
	}
	qt.Assert(t, qt.IsNil(a.Do(func() (err error) {
		d.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})))
	t.Cleanup(func() { unix.Close(d.fd) })
	timeout := unix.Timeval{Sec: 10}
	qt.Assert(t, qt.IsNil(unix.SetsockoptTimeval(d.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)))
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(d.fd, d.level, discover, unix.IP_PMTUDISC_DO)))
	qt.Assert(t, qt.IsNil(unix.Connect(d.fd, at)))
	return d
}

// send sends a packet of so many bytes with all headers.
func (d checked) send(size int) error {
	return unix.Send(d.fd, bytes.Repeat([]byte{'x'}, size-d.header), 0)
}

// A packet of full size is answered: by the peer if it fits, and by "too big" if not. It is never
// swallowed, and neither is one that may be fragmented.
func TestFullSize(t *testing.T) { everywhere(t, testFullSize) }

func testFullSize(t *testing.T, local wireguard.Local) {
	t.Helper()
	for name, size := range map[string]struct {
		underlay  string
		mtu, room int
	}{
		"just right, IPv4": {"192.0.2.0/24", networkMTU + 60, networkMTU},
		"just right, IPv6": {"2001:db8::/64", networkMTU + 80, networkMTU},
		// Packets are padded to a multiple of 16 bytes.
		"byte short, IPv4": {"192.0.2.0/24", networkMTU + 59, networkMTU - 8},
		"byte short, IPv6": {"2001:db8::/64", networkMTU + 79, networkMTU - 8},
		"smallest":         {"192.0.2.0/24", 1340, 1280},
		"large frames":     {"192.0.2.0/24", 9000, networkMTU},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, local, size.mtu, size.underlay)
			w.use(0)
			a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
			status, err := w.alpha.m.Hosts(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(min(status["beta"].MTU, networkMTU), size.room))
			b.echo(t)
			for range 2 { // and after a restart
				for _, to := range b.both() {
					fullSize(t, a, to, size.room)
				}
				w.alpha.close(t)
				w.alpha.open(t)
			}
		})
	}
}

func fullSize(t *testing.T, a app, to netip.Addr, room int) {
	t.Helper()
	d := newChecked(t, a, to)
	qt.Check(t, qt.ErrorIs(d.send(networkMTU+1), error(unix.EMSGSIZE)))
	if room < networkMTU {
		// The first one is on its way before anybody knows, or an earlier socket has found out.
		if err := d.send(room + 1); err == nil {
			_, _, err := unix.Recvfrom(d.fd, make([]byte, 1), 0)
			qt.Assert(t, qt.ErrorIs(err, error(unix.EMSGSIZE)))
		}
		qt.Check(t, qt.ErrorIs(d.send(room+1), error(unix.EMSGSIZE)))
	}
	qt.Assert(t, qt.IsNil(d.send(room)))
	n, _, err := unix.Recvfrom(d.fd, make([]byte, 1<<16), 0)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n+d.header, room))
	mtu, err := unix.GetsockoptInt(d.fd, d.level, d.mtuOption)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(mtu, room))

	c, err := a.DialContext(t.Context(), "udp", net.JoinHostPort(to.String(), "9"))
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	want, got := bytes.Repeat([]byte("0123456789abcdef"), 1000), make([]byte, 1<<16)
	// Over IPv6 it is the sender who splits it, and either end's first one may be too big.
	patience := 10 * time.Second
	if to.Is6() {
		patience = time.Second / 4
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, err = c.Write(want)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(c.SetReadDeadline(time.Now().Add(patience))))
		if n, err = c.Read(got); err == nil || to.Is4() || time.Now().After(deadline) {
			break
		}
	}
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(bytes.Equal(got[:n], want)), qt.Commentf("%d bytes of %d", n, len(want)))
}
