package sockets

import (
	"os"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// UnixBound makes a unix socket with a name.
func (w *World) UnixBound(kind int, name string) *os.File {
	w.T.Helper()
	f := w.Socket(unix.AF_UNIX, kind, 0)
	qt.Assert(w.T, qt.IsNil(unix.Bind(int(f.Fd()), &unix.SockaddrUnix{Name: name})))
	return f
}

// UnixListen makes a unix listener with the given backlog.
func (w *World) UnixListen(kind, backlog int, name string) *os.File {
	w.T.Helper()
	f := w.UnixBound(kind, name)
	qt.Assert(w.T, qt.IsNil(unix.Listen(int(f.Fd()), backlog)))
	return f
}

// UnixDial connects a new socket of the world to name.
func (w *World) UnixDial(kind int, name string) *os.File {
	w.T.Helper()
	return w.Connect(w.Socket(unix.AF_UNIX, kind, 0), name)
}

// Connect connects a unix socket to name, and returns it.
func (w *World) Connect(f *os.File, name string) *os.File {
	w.T.Helper()
	qt.Assert(w.T, qt.IsNil(unix.Connect(int(f.Fd()), &unix.SockaddrUnix{Name: name})))
	return f
}

// Pair makes two unix sockets that are connected, in the caller's namespace.
func (w *World) Pair(kind int) (a, b *os.File) {
	w.T.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	qt.Assert(w.T, qt.IsNil(err))
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	w.T.Cleanup(func() { a.Close() }) //nolint:errcheck // a test may have closed it
	w.T.Cleanup(func() { b.Close() }) //nolint:errcheck // a test may have closed it
	return a, b
}
