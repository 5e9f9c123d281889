package redirect_test

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
)

// tap makes the slow path's device in a host's fabric, and returns its other side.
func (p *place) tap(t *testing.T, name string) *os.File {
	t.Helper()
	var file *os.File
	qt.Assert(t, qt.IsNil(p.f.Namespace().Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "tap")
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(dev)
	})))
	t.Cleanup(func() { file.Close() })
	return file
}

// What the slow path writes back takes a route that is not open to all yet, and gets to
// endpoints of the same host as well.
func TestWaiting(t *testing.T) {
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, "192.0.2.0/24")
			w.use(0, kind)
			inside := endpoint(7)
			clone := endpoint(4)
			clone.Inside4, clone.Inside6 = inside.Addr4, inside.Addr6
			a, b, c, near := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3)), w.attach(w.beta, clone), w.attach(w.alpha, endpoint(5))
			tap := w.alpha.tap(t, fabric.SlowDevice)
			type target struct {
				app app
				fd  int
			}
			var to []target
			for _, x := range []app{b, c, near} {
				w.route(w.beta, x.ep, channel.Opening)
				to = append(to, target{x, receiver(t, x)})
			}
			// An endpoint here comes before a route.
			for range 2 { // and again after a restart
				qt.Assert(t, qt.IsNil(w.alpha.f.PassOn(t.Context(), fabric.SlowDevice)))
				for _, x := range to {
					header := []byte{12: 8, 13: 0} // Ethernet, IPv4; the addresses do not matter
					_, err := tap.Write(append(header, datagram4(a.ep.Addr4, x.app.ep.Addr4, 0, "waited")...))
					qt.Assert(t, qt.IsNil(err))
					text, _ := received(t, x.fd)
					qt.Check(t, qt.Equals(text, "waited"))
				}
				w.alpha.close(t)
				w.alpha.open(t)
			}
		})
	}
}
