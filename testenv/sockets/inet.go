package sockets

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// Socket makes a non-blocking socket that the test's end closes.
func (w *World) Socket(family, kind, proto int) *os.File {
	w.T.Helper()
	var f *os.File
	w.Do(func() { f = w.Here(family, kind, proto) })
	return f
}

// Here makes a socket in the caller's namespace.
func (w *World) Here(family, kind, proto int) *os.File {
	w.T.Helper()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	qt.Assert(w.T, qt.IsNil(err))
	f := os.NewFile(uintptr(fd), "socket")
	w.T.Cleanup(func() { f.Close() }) //nolint:errcheck // a test may have closed it
	return f
}

// Sockaddr is an address in the form of the system calls.
func Sockaddr(addr netip.AddrPort) unix.Sockaddr {
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

// Local tells a socket's own address.
func (w *World) Local(f *os.File) netip.AddrPort {
	w.T.Helper()
	sa, err := unix.Getsockname(int(f.Fd()))
	qt.Assert(w.T, qt.IsNil(err))
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	default:
		w.T.Fatalf("unexpected address %T", sa)
		return netip.AddrPort{}
	}
}

// Listen makes a TCP listener with the given backlog.
func (w *World) Listen(addr netip.Addr, backlog int) *os.File {
	w.T.Helper()
	f := w.Bound(addr, unix.SOCK_STREAM, 0)
	qt.Assert(w.T, qt.IsNil(unix.Listen(int(f.Fd()), backlog)))
	return f
}

// Bound makes a socket with a name and a port that the kernel picks.
func (w *World) Bound(addr netip.Addr, kind, proto int) *os.File {
	w.T.Helper()
	f := w.Socket(family(addr), kind, proto)
	qt.Assert(w.T, qt.IsNil(unix.Bind(int(f.Fd()), Sockaddr(netip.AddrPortFrom(addr, 0)))))
	return f
}

// Dial connects to an address of the world, from another one.
func (w *World) Dial(from netip.Addr, to netip.AddrPort) *os.File {
	w.T.Helper()
	f := w.Bound(from, unix.SOCK_STREAM, 0)
	err := unix.Connect(int(f.Fd()), Sockaddr(to))
	if !errors.Is(err, unix.EINPROGRESS) {
		qt.Assert(w.T, qt.IsNil(err))
	}
	Poll(w.T, f, unix.POLLOUT)
	return f
}

// Accept takes one connection from a listener.
func (w *World) Accept(l *os.File) *os.File {
	w.T.Helper()
	Poll(w.T, l, unix.POLLIN)
	fd, _, err := unix.Accept4(int(l.Fd()), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	qt.Assert(w.T, qt.IsNil(err))
	f := os.NewFile(uintptr(fd), "accepted")
	w.T.Cleanup(func() { f.Close() }) //nolint:errcheck // a test may have closed it
	return f
}

// Poll waits until a socket is ready.
func Poll(tb testing.TB, f *os.File, events int16) {
	tb.Helper()
	p := []unix.PollFd{{Fd: int32(f.Fd()), Events: events}}
	n, err := unix.Poll(p, 10_000)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.Equals(n, 1))
}

// Write sends a text on a connection.
func (w *World) Write(f *os.File, text string) {
	w.T.Helper()
	_, err := unix.Write(int(f.Fd()), []byte(text))
	qt.Assert(w.T, qt.IsNil(err))
}

// SendTo sends a text as a datagram.
func (w *World) SendTo(f *os.File, to netip.AddrPort, text string) {
	w.T.Helper()
	qt.Assert(w.T, qt.IsNil(unix.Sendto(int(f.Fd()), []byte(text), 0, Sockaddr(to))))
}

// Close closes files before the test ends.
func Close(tb testing.TB, files ...*os.File) {
	tb.Helper()
	for _, f := range files {
		qt.Assert(tb, qt.IsNil(f.Close()))
	}
}

// Reset closes a TCP connection with a RST.
func Reset(tb testing.TB, f *os.File) {
	tb.Helper()
	linger := unix.Linger{Onoff: 1}
	qt.Assert(tb, qt.IsNil(unix.SetsockoptLinger(int(f.Fd()), unix.SOL_SOCKET, unix.SO_LINGER, &linger)))
	Close(tb, f)
}

// Ping is an ICMP echo request.
func Ping(id uint16) []byte {
	b := []byte{8, 0, 0, 0, 0, 0, 0, 1}
	binary.BigEndian.PutUint16(b[4:], id)
	return b
}
