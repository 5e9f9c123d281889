package fabric_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// What the clones of the tests have inside: the addresses of ep(7).
var inside = ep(7)

// clone is the n-th endpoint with the addresses of another one inside.
func clone(n byte) fabric.Endpoint {
	e := ep(n)
	e.Inside4, e.Inside6 = inside.Addr4, inside.Addr6
	return e
}

// place is a namespace with the addresses that it sees of itself, and those that
// others see.
type place struct {
	ns              *netns.NS
	inside, outside [2]netip.Addr // IPv4, IPv6
}

func (p place) address(i int, port uint16) string {
	return netip.AddrPortFrom(p.outside[i], port).String()
}

// cloned is a network with three clones (c2, c3, c4), one plain endpoint (p5) and a
// host that all have a server for TCP and one for UDP at port 80 of each of their
// addresses, bound by number.
type cloned struct {
	cfg    fabric.Config
	f      *fabric.Fabric
	places map[string]place
}

func newCloned(t *testing.T, cfg fabric.Config) cloned {
	t.Helper()
	w := cloned{cfg: cfg, f: open(t, cfg), places: map[string]place{}}
	qt.Assert(t, qt.IsNil(w.f.FastPath()))
	for n := byte(2); n <= 5; n++ {
		name, e := "c"+string('0'+rune(n)), clone(n)
		seen := inside
		if n == 5 {
			name, e, seen = "p5", ep(n), ep(n)
		}
		w.places[name] = place{attach(t, w.f, e), [2]netip.Addr{seen.Addr4, seen.Addr6}, [2]netip.Addr{e.Addr4, e.Addr6}}
	}
	gateway := [2]netip.Addr{ep(1).Addr4, ep(1).Addr6}
	w.places["host"] = place{cfg.Host, gateway, gateway}
	for _, p := range w.places {
		for _, a := range p.inside {
			for _, network := range []string{"tcp", "udp"} {
				answer(t, p.ns, network, netip.AddrPortFrom(a, 80).String())
			}
		}
	}
	return w
}

// answer tells each client both ends of the conversation as the server sees them,
// and sends back what it sent.
func answer(t *testing.T, ns *netns.NS, network, addr string) {
	t.Helper()
	if network == "udp" {
		var c net.PacketConn
		qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
			var lc net.ListenConfig
			c, err = lc.ListenPacket(t.Context(), network, addr)
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
				c.WriteTo(append([]byte(views(c.LocalAddr(), from)), buf[:n]...), from)
			}
		}()
		return
	}
	var l net.Listener
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		var lc net.ListenConfig
		l, err = lc.Listen(t.Context(), network, addr)
		return err
	})))
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, views(c.LocalAddr(), c.RemoteAddr()))
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

// views is a line of fixed length.
func views(self, peer net.Addr) string {
	return fmt.Sprintf("%-99s\n", "self "+self.String()+" peer "+peer.String())
}

const viewsLen = 100

// talk opens a conversation from ns and returns it with what the server sees. size
// bytes of noise have been there and back unharmed.
func talk(t *testing.T, ns *netns.NS, network, addr string, size int) (c net.Conn, server string, err error) {
	t.Helper()
	err = ns.Do(func() (err error) {
		d := net.Dialer{Timeout: 3 * time.Second}
		c, err = d.DialContext(t.Context(), network, addr)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(func() { c.Close() })
	qt.Assert(t, qt.IsNil(c.SetDeadline(time.Now().Add(20*time.Second))))
	server, err = echo(c, network, size, network == "tcp")
	return c, strings.TrimSpace(server), err
}

// echo sends noise and compares what comes back.
func echo(c net.Conn, network string, size int, greeted bool) (server string, err error) {
	noise := make([]byte, size)
	source := rand.NewChaCha8([32]byte{})
	source.Read(noise)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(noise)
		sent <- err
	}()
	var got []byte
	if network == "udp" {
		buf := make([]byte, 1<<16)
		n, err := c.Read(buf)
		if err != nil {
			return "", err
		}
		server, got = string(buf[:viewsLen]), buf[viewsLen:n]
	} else {
		buf := make([]byte, size)
		if greeted {
			head := make([]byte, viewsLen)
			if _, err := io.ReadFull(c, head); err != nil {
				return "", err
			}
			server = string(head)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return "", err
		}
		got = buf
	}
	if err := <-sent; err != nil {
		return "", err
	}
	if sha256.Sum256(got) != sha256.Sum256(noise) {
		return "", fmt.Errorf("%d bytes came back changed as %d", len(noise), len(got))
	}
	return server, nil
}

// check talks from one place to another and compares all four views.
func (w cloned) check(t *testing.T, from, to, network string, family, size int) {
	t.Helper()
	a, b := w.places[from], w.places[to]
	target := b.outside[family]
	comment := qt.Commentf("%s to %s at %s by %s", from, to, target, network)
	c, server, err := talk(t, a.ns, network, b.address(family, 80), size)
	qt.Assert(t, qt.IsNil(err), comment)
	local := c.LocalAddr().String()
	port := local[strings.LastIndexByte(local, ':'):]
	qt.Check(t, qt.Equals(local, bracket(a.inside[family])+port), comment)
	qt.Check(t, qt.Equals(c.RemoteAddr().String(), bracket(target)+":80"), comment)
	qt.Check(t, qt.Equals(server, "self "+bracket(b.inside[family])+":80 peer "+bracket(a.outside[family])+port), comment)
}

func bracket(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// pairs are who talks to whom: everybody to everybody and a clone to itself, but not
// a plain place to itself, which no packet of the fabric has a part in.
func (w cloned) pairs() (list [][2]string) {
	for from := range w.places {
		for to := range w.places {
			if from != to || from[0] == 'c' {
				list = append(list, [2]string{from, to})
			}
		}
	}
	return list
}

// leaveToRoutes leaves the packets of plain endpoints and the host to the kernel's
// routes.
func leaveToRoutes(t *testing.T, w cloned) {
	t.Helper()
	for _, l := range fabricDevices(t, w.f) {
		if l.Attrs().Alias == "" {
			dropPrograms(t, w.f, l)
		}
	}
}

// sendChecksums makes every sender compute its checksums.
func sendChecksums(t *testing.T, w cloned) {
	t.Helper()
	for name, p := range w.places {
		device := "eth0"
		if name == "host" {
			device = w.f.HostDevice()
		}
		noOffload(t, p.ns, device)
	}
}

// noOffload makes the kernel compute what it would leave to a device: checksums, and
// with them the splitting of segments (net/core/dev.c, netdev_fix_features).
func noOffload(t *testing.T, ns *netns.NS, device string) {
	t.Helper()
	const ethtoolSetTxChecksum = 0x17 // ETHTOOL_STXCSUM, include/uapi/linux/ethtool.h
	value := struct{ cmd, data uint32 }{ethtoolSetTxChecksum, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	qt.Assert(t, qt.IsNil(ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})), qt.Commentf(device))
}

// setSysctl changes a setting of the namespace that the caller is in.
func setSysctl(path, value string) error {
	return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0)
}
