package hold_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netns"
)

// TestMain makes the test binary play the app: a process that has the
// descriptors that a test gave it, until its input ends.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keep" {
		if os.Args[2] == "uring" {
			if err := mapUring(3); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		if _, err := os.Stdout.Write([]byte("ready\n")); err != nil {
			os.Exit(1)
		}
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(leak.Main(m))
}

// mapUring maps a ring of the io_uring at fd and closes the descriptor.
func mapUring(fd int) error {
	if _, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return err
	}
	return unix.Close(fd)
}

// world is a network namespace with nothing but a loopback device, where the app
// and its peers live.
type world struct {
	t  testing.TB
	ns *netns.NS
}

// The addresses of a world. The others stand for sources to tell apart.
var (
	app4, app6     = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	other4, other6 = netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("fd00::2")
)

func newWorld(tb testing.TB) *world {
	tb.Helper()
	testenv.Need(tb, testenv.Root)
	ns, err := netns.New()
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { qt.Check(tb, qt.IsNil(ns.Close())) })
	w := &world{t: tb, ns: ns}
	w.do(func() {
		lo, err := netlink.LinkByName("lo")
		qt.Assert(tb, qt.IsNil(err))
		qt.Assert(tb, qt.IsNil(netlink.LinkSetUp(lo)))
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: other6.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
		qt.Assert(tb, qt.IsNil(netlink.AddrAdd(lo, addr)))
		// Lots of connections between the same two addresses.
		qt.Assert(tb, qt.IsNil(os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("2000 65000"), 0)))
	})
	return w
}

// do runs fn inside the namespace.
func (w *world) do(fn func()) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.ns.Do(func() error { fn(); return nil })))
}

// socket makes a non-blocking socket that the test's end closes.
func (w *world) socket(family, kind, proto int) *os.File {
	w.t.Helper()
	var f *os.File
	w.do(func() { f = w.here(family, kind, proto) })
	return f
}

// here makes a socket in the caller's namespace.
func (w *world) here(family, kind, proto int) *os.File {
	w.t.Helper()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	qt.Assert(w.t, qt.IsNil(err))
	f := os.NewFile(uintptr(fd), "socket")
	w.t.Cleanup(func() { f.Close() })
	return f
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
	}
	return &unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())}
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// local tells a socket's own address.
func (w *world) local(f *os.File) netip.AddrPort {
	w.t.Helper()
	sa, err := unix.Getsockname(int(f.Fd()))
	qt.Assert(w.t, qt.IsNil(err))
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	default:
		w.t.Fatalf("unexpected address %T", sa)
		return netip.AddrPort{}
	}
}

// listen makes a TCP listener with the given backlog.
func (w *world) listen(addr netip.Addr, backlog int) *os.File {
	w.t.Helper()
	f := w.bound(addr, unix.SOCK_STREAM, 0)
	qt.Assert(w.t, qt.IsNil(unix.Listen(int(f.Fd()), backlog)))
	return f
}

// bound makes a socket with a name and a port that the kernel picks.
func (w *world) bound(addr netip.Addr, kind, proto int) *os.File {
	w.t.Helper()
	f := w.socket(family(addr), kind, proto)
	qt.Assert(w.t, qt.IsNil(unix.Bind(int(f.Fd()), sockaddr(netip.AddrPortFrom(addr, 0)))))
	return f
}

// dial connects to an address of the world, from another one.
func (w *world) dial(from netip.Addr, to netip.AddrPort) *os.File {
	w.t.Helper()
	f := w.bound(from, unix.SOCK_STREAM, 0)
	err := unix.Connect(int(f.Fd()), sockaddr(to))
	if !errors.Is(err, unix.EINPROGRESS) {
		qt.Assert(w.t, qt.IsNil(err))
	}
	poll(w.t, f, unix.POLLOUT)
	return f
}

// accept takes one connection from a listener.
func (w *world) accept(l *os.File) *os.File {
	w.t.Helper()
	poll(w.t, l, unix.POLLIN)
	fd, _, err := unix.Accept4(int(l.Fd()), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	qt.Assert(w.t, qt.IsNil(err))
	f := os.NewFile(uintptr(fd), "accepted")
	w.t.Cleanup(func() { f.Close() })
	return f
}

// poll waits until a socket is ready.
func poll(tb testing.TB, f *os.File, events int16) {
	tb.Helper()
	p := []unix.PollFd{{Fd: int32(f.Fd()), Events: events}}
	n, err := unix.Poll(p, 10_000)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.Equals(n, 1))
}

func (w *world) write(f *os.File, text string) {
	w.t.Helper()
	_, err := unix.Write(int(f.Fd()), []byte(text))
	qt.Assert(w.t, qt.IsNil(err))
}

func (w *world) sendto(f *os.File, to netip.AddrPort, text string) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(unix.Sendto(int(f.Fd()), []byte(text), 0, sockaddr(to))))
}

func closeNow(tb testing.TB, files ...*os.File) {
	tb.Helper()
	for _, f := range files {
		qt.Assert(tb, qt.IsNil(f.Close()))
	}
}

// reset closes a TCP connection with a RST.
func reset(tb testing.TB, f *os.File) {
	tb.Helper()
	linger := unix.Linger{Onoff: 1}
	qt.Assert(tb, qt.IsNil(unix.SetsockoptLinger(int(f.Fd()), unix.SOL_SOCKET, unix.SO_LINGER, &linger)))
	closeNow(tb, f)
}

// app is a process in the world.
type app struct {
	cmd  *exec.Cmd
	quit io.Closer
	pid  int
}

// run starts a process that has the files as descriptors 3 and on, and only it:
// ours are closed.
func (w *world) run(files ...*os.File) *app {
	w.t.Helper()
	return w.runAs("plain", files...)
}

// runAs does the same with a process that also does something to its files.
func (w *world) runAs(role string, files ...*os.File) *app {
	w.t.Helper()
	exe, err := os.Executable()
	qt.Assert(w.t, qt.IsNil(err))
	cmd := exec.CommandContext(context.WithoutCancel(w.t.Context()), exe, "keep", role)
	cmd.ExtraFiles = files
	stdin, err := cmd.StdinPipe()
	qt.Assert(w.t, qt.IsNil(err))
	stdout, err := cmd.StdoutPipe()
	qt.Assert(w.t, qt.IsNil(err))
	w.do(func() { qt.Assert(w.t, qt.IsNil(cmd.Start())) })
	a := &app{cmd: cmd, quit: stdin, pid: cmd.Process.Pid}
	w.t.Cleanup(func() { a.kill(w.t) })
	_, err = io.ReadFull(stdout, make([]byte, 6))
	qt.Assert(w.t, qt.IsNil(err))
	closeNow(w.t, files...)
	return a
}

// kill ends the process as a hibernation does.
func (a *app) kill(tb testing.TB) {
	tb.Helper()
	if a.cmd.ProcessState != nil {
		return
	}
	qt.Assert(tb, qt.IsNil(a.cmd.Process.Kill()))
	_, err := a.cmd.Process.Wait()
	qt.Assert(tb, qt.IsNil(err))
	a.cmd.ProcessState = &os.ProcessState{}
}

// hold collects an app's sockets and ends it.
func (w *world) hold(files ...*os.File) *hold.Set {
	w.t.Helper()
	a := w.run(files...)
	set := w.collect(a, hold.Options{})
	a.kill(w.t)
	return set
}

func (w *world) collect(a *app, opt hold.Options) *hold.Set {
	w.t.Helper()
	opt.NS = w.ns
	set, err := hold.Collect(w.t.Context(), []int{a.pid}, opt)
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { qt.Check(w.t, qt.IsNil(set.Close())) })
	return set
}

// silence is how long a test watches for a wake that must not come. Accept
// queues are looked into after 1 to 15 ms when a packet came, and every 250 ms
// without.
const silence = 300 * time.Millisecond

// asleep checks that nothing wakes.
func asleep(tb testing.TB, w *hold.Watcher) {
	tb.Helper()
	asleepFor(tb, w, silence)
}

func asleepFor(tb testing.TB, w *hold.Watcher, d time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	defer cancel()
	e, err := w.Wait(ctx)
	qt.Assert(tb, qt.ErrorIs(err, context.DeadlineExceeded), qt.Commentf("woken by %+v", e))
}

// awake waits for a wake and checks its reason.
func awake(tb testing.TB, w *hold.Watcher, reason hold.Reason) hold.Event {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	e, err := w.Wait(ctx)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.Equals(e.Reason, reason))
	return e
}

func (w *world) watch(set *hold.Set, policy hold.WakePolicy) *hold.Watcher {
	w.t.Helper()
	watcher, err := hold.NewWatcher(set, policy, w.ns)
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { watcher.Close() })
	return watcher
}

// ping is an ICMP echo request.
func ping(id uint16) []byte {
	b := []byte{8, 0, 0, 0, 0, 0, 0, 1}
	binary.BigEndian.PutUint16(b[4:], id)
	return b
}
