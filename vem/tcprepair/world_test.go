package tcprepair_test

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

func TestMain(m *testing.M) {
	// Worlds know nothing of each other, and much is waiting for the kernel's timers.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(leak.Main(m))
}

// own is an address that each world has besides the loopback ones.
var own = netip.MustParseAddr("10.99.0.1")

// world is a network namespace with nothing that leads out of it.
type world struct {
	t  testing.TB
	ns *netns.NS
}

func newWorld(tb testing.TB, sysctls ...string) *world {
	tb.Helper()
	testenv.Need(tb, testenv.Root)
	ns, err := netns.New()
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { qt.Check(tb, qt.IsNil(ns.Close())) })
	w := &world{tb, ns}
	w.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		err = errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(own.AsSlice())}))
		for i := 0; i < len(sysctls); i += 2 {
			err = errors.Join(err, os.WriteFile("/proc/sys/net/"+sysctls[i], []byte(sysctls[i+1]), 0))
		}
		return err
	})
	return w
}

func (w *world) do(fn func() error) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.ns.Do(fn)))
}

// end is one end of a connection over which numbered bytes go.
type end struct {
	t           testing.TB
	fd          int
	wrote, read int // bytes
	way         byte
}

// number is the byte at a place of a stream.
func number(way byte, at int) byte { return byte(at) ^ byte(at>>8)*3 ^ byte(at>>16)*5 ^ way }

func numbers(way byte, from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = number(way, from+i)
	}
	return b
}

// pair is both ends of a connection: [0] has connected, [1] was accepted.
type pair [2]*end

// pair makes a connection to addr. The listener stays open until the test ends.
func (w *world) pair(addr netip.Addr, listener ...func(fd int)) pair {
	w.t.Helper()
	return w.pairs(1, addr, listener...)[0]
}

func (w *world) pairs(n int, addr netip.Addr, listener ...func(fd int)) []pair {
	w.t.Helper()
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	var all []pair
	w.do(func() error {
		l, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _ = unix.Close(l) })
		for _, set := range listener {
			set(l)
		}
		if err := errors.Join(unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(l, sockaddr(addr, 0)), unix.Listen(l, 10)); err != nil {
			return err
		}
		name, err := unix.Getsockname(l)
		if err != nil {
			return err
		}
		for range n {
			c, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			for _, set := range listener {
				set(c)
			}
			if err := unix.Connect(c, name); err != nil {
				return err
			}
			a, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
			if err != nil {
				return err
			}
			all = append(all, pair{w.end(c, 0), w.end(a, 0x55)})
		}
		return nil
	})
	return all
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
}

func (w *world) end(fd int, way byte) *end {
	e := &end{t: w.t, fd: fd, way: way}
	w.t.Cleanup(e.close)
	return e
}

func (e *end) close() {
	if e.fd >= 0 {
		qt.Check(e.t, qt.IsNil(unix.Close(e.fd)))
	}
	e.fd = -1
}

func (e *end) write(n int) {
	e.t.Helper()
	for n > 0 {
		done, err := unix.Write(e.fd, numbers(e.way, e.wrote, n))
		qt.Assert(e.t, qt.IsNil(err))
		e.wrote, n = e.wrote+done, n-done
	}
}

// fill writes until nothing more fits.
func (e *end) fill() {
	e.t.Helper()
	for {
		n, err := unix.SendmsgN(e.fd, numbers(e.way, e.wrote, 1<<16), nil, nil, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		qt.Assert(e.t, qt.IsNil(err))
		e.wrote += n
	}
}

// wait waits for an event.
func (e *end) wait(events int16) {
	e.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) { // by the Go runtime's own signals
		left := max(0, time.Until(deadline).Milliseconds())
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: events}}, int(left))
	}
	qt.Assert(e.t, qt.IsNil(err))
	qt.Assert(e.t, qt.Equals(n, 1), qt.Commentf("nothing happens after %d bytes", e.read))
}

// receive reads n bytes and compares each number.
func (e *end) receive(n int) {
	e.t.Helper()
	b := make([]byte, min(n, 1<<16))
	for n > 0 {
		e.wait(unix.POLLIN)
		got, err := unix.Read(e.fd, b[:min(len(b), n)])
		qt.Assert(e.t, qt.IsNil(err))
		qt.Assert(e.t, qt.IsTrue(got > 0), qt.Commentf("the stream ends at %d", e.read))
		for i, c := range b[:got] {
			if want := number(e.way^0x55, e.read+i); c != want {
				e.t.Fatalf("byte %d is %#x, want %#x", e.read+i, c, want)
			}
		}
		e.read, n = e.read+got, n-got
	}
}

// ended reads the end of the stream.
func (e *end) ended() {
	e.t.Helper()
	e.wait(unix.POLLIN)
	n, err := unix.Read(e.fd, make([]byte, 1))
	qt.Assert(e.t, qt.IsNil(err))
	qt.Assert(e.t, qt.Equals(n, 0))
}

func (e *end) finish() {
	e.t.Helper()
	qt.Assert(e.t, qt.IsNil(unix.Shutdown(e.fd, unix.SHUT_WR)))
}

func (e *end) state() int {
	e.t.Helper()
	return int(e.info().State)
}

// segment is how much of the stream the end sends at a time.
func (e *end) segment() int {
	e.t.Helper()
	n, err := unix.GetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	qt.Assert(e.t, qt.IsNil(err))
	return n
}

// info is what the kernel tells of the end.
func (e *end) info() *unix.TCPInfo {
	e.t.Helper()
	info, err := unix.GetsockoptTCPInfo(e.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	qt.Assert(e.t, qt.IsNil(err))
	return info
}

// measured waits until the end knows how long answers take. Until then its timeout is the
// kernel's for connections of which it knows nothing, 3 s.
func (e *end) measured() {
	e.t.Helper()
	e.until(func() bool { return e.info().Rtt > 0 })
	qt.Check(e.t, qt.IsTrue(e.info().Rto < 3_000_000), qt.Commentf("timeout of %d us", e.info().Rto))
}

// inState waits until the kernel has got there.
func (e *end) inState(want int) {
	e.t.Helper()
	e.until(func() bool { return e.state() == want })
}

// until asks again until it is true.
func (e *end) until(yes func() bool) {
	e.t.Helper()
	deadline, tick := time.NewTimer(10*time.Second), time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline.C:
			e.t.Fatalf("it does not get there; state %d", e.state())
		}
	}
}

// save saves a pair, and proves that it can be written down.
func save(tb testing.TB, p pair) tcprepair.Connection {
	tb.Helper()
	c, err := trySave(p)
	qt.Assert(tb, qt.IsNil(err))
	s, err := tcprepair.Decode(tcprepair.Encode(tcprepair.Saved{Connections: []tcprepair.Connection{c}}))
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.HasLen(s.Connections, 1))
	return s.Connections[0]
}

func trySave(p pair) (tcprepair.Connection, error) {
	var ends []tcprepair.End
	for i, e := range p {
		if e != nil {
			ends = append(ends, tcprepair.End{FD: e.fd, Inode: uint64(i + 1)})
		}
	}
	return tcprepair.Save(tcprepair.SaveOptions{}, ends...)
}

// restore makes a saved pair in another world.
func (w *world) restore(c tcprepair.Connection, like pair) pair {
	w.t.Helper()
	var p pair
	var r *tcprepair.Restored
	w.do(func() (err error) {
		r, err = c.Restore()
		return err
	})
	for _, s := range r.Sockets {
		fd, err := unix.FcntlInt(s.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		qt.Assert(w.t, qt.IsNil(err))
		i := s.Inode - 1
		e := w.end(fd, like[i].way)
		e.wrote, e.read = like[i].wrote, like[i].read
		p[i] = e
	}
	qt.Assert(w.t, qt.IsNil(r.Release()))
	return p
}

// goesOn reads everything, sends more both ways, and ends both streams.
func (p pair) goesOn() {
	p[0].t.Helper()
	p.talk(20)
	p.end()
}

// talk reads everything and sends more both ways, so many times.
func (p pair) talk(times int) {
	p[0].t.Helper()
	for i := range p {
		p[i].receive(p[1-i].wrote - p[i].read)
	}
	for range times {
		for i := range p {
			p[i].write(5000)
			p[1-i].receive(5000)
		}
	}
}

// end ends both streams.
func (p pair) end() {
	p[0].t.Helper()
	for i := range p {
		p[i].finish()
		p[1-i].ended()
	}
}
