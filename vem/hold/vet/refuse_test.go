package vet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

// refusals are things that cannot be hibernated, each as one descriptor.
func refusals() map[string]struct {
	open    func(t *testing.T, w *sockets.World) *os.File
	what    string
	onlyNow bool // Preflight does not see it
} {
	device := func(path string) func(t *testing.T, w *sockets.World) *os.File {
		return func(t *testing.T, _ *sockets.World) *os.File {
			t.Helper()
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Skipf("no such device here: %v", err)
			}
			return f
		}
	}
	socket := func(family, kind, proto int) func(t *testing.T, w *sockets.World) *os.File {
		return func(t *testing.T, w *sockets.World) *os.File {
			t.Helper()
			if fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto); err != nil {
				t.Skipf("no such socket here: %v", err)
			} else {
				qt.Assert(t, qt.IsNil(unix.Close(fd)))
			}
			return w.Socket(family, kind, proto)
		}
	}
	return map[string]struct {
		open    func(t *testing.T, w *sockets.World) *os.File
		what    string
		onlyNow bool
	}{
		"MPTCP listener": {open: func(t *testing.T, w *sockets.World) *os.File {
			t.Helper()
			f := w.Bound(sockets.App4, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
			qt.Assert(t, qt.IsNil(unix.Listen(int(f.Fd()), 5)))
			return f
		}, what: "MPTCP socket"},
		"io_uring": {open: func(t *testing.T, _ *sockets.World) *os.File {
			t.Helper()
			var params [120]byte // struct io_uring_params
			fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
			if errno != 0 {
				t.Skipf("no io_uring here: %v", errno)
			}
			return os.NewFile(fd, "io_uring")
		}, what: "io_uring"},
		"userfaultfd": {open: func(t *testing.T, _ *sockets.World) *os.File {
			t.Helper()
			fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
			if errno != 0 {
				t.Skipf("no userfaultfd here: %v", errno)
			}
			return os.NewFile(fd, "userfaultfd")
		}, what: "userfaultfd"},
		"TUN":   {open: device("/dev/net/tun"), what: "TUN/TAP device /dev/net/tun"},
		"FUSE":  {open: device("/dev/fuse"), what: "FUSE connection /dev/fuse"},
		"loop":  {open: device("/dev/loop-control"), what: "device /dev/loop-control (10:237)"},
		"vsock": {open: socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), what: "vsock socket"},
		"XDP":   {open: socket(unix.AF_XDP, unix.SOCK_RAW, 0), what: "AF_XDP socket"},
		"corked UDP": {open: func(t *testing.T, w *sockets.World) *os.File {
			t.Helper()
			f := w.Bound(sockets.App4, unix.SOCK_DGRAM, 0)
			qt.Assert(t, qt.IsNil(unix.SetsockoptInt(int(f.Fd()), unix.IPPROTO_UDP, unix.UDP_CORK, 1)))
			return f
		}, what: "corked UDP socket", onlyNow: true},
		"O_PATH socket file": {open: func(t *testing.T, w *sockets.World) *os.File {
			t.Helper()
			name := filepath.Join(t.TempDir(), "s")
			s := w.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			qt.Assert(t, qt.IsNil(unix.Bind(int(s.Fd()), &unix.SockaddrUnix{Name: name})))
			fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
			qt.Assert(t, qt.IsNil(err))
			return os.NewFile(uintptr(fd), name)
		}, what: "O_PATH descriptor of a unix socket file"},
		"netlink with messages": {open: func(t *testing.T, w *sockets.World) *os.File {
			t.Helper()
			f := w.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
			// RTM_GETLINK dump: the answer waits to be read.
			req := []byte{20, 0, 0, 0, unix.RTM_GETLINK, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
			qt.Assert(t, qt.IsNil(unix.Sendto(int(f.Fd()), req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})))
			return f
		}, what: "netlink socket with messages that wait to be read", onlyNow: true},
		"unread fanotify": {open: func(t *testing.T, _ *sockets.World) *os.File {
			t.Helper()
			fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
			qt.Assert(t, qt.IsNil(err))
			dir := t.TempDir()
			qt.Assert(t, qt.IsNil(unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, dir)))
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)))
			return os.NewFile(uintptr(fd), "fanotify")
		}, what: "fanotify group with events that wait to be read"},
		"pidfd of another process": {open: func(t *testing.T, _ *sockets.World) *os.File {
			t.Helper()
			fd, err := unix.PidfdOpen(os.Getpid(), 0)
			qt.Assert(t, qt.IsNil(err))
			return os.NewFile(uintptr(fd), "pidfd")
		}, what: "pidfd of a process outside of the app"},
	}
}

func TestRefuse(t *testing.T) {
	for name, test := range refusals() {
		t.Run(name, func(t *testing.T) {
			w := sockets.New(t)
			harmless := w.Listen(sockets.App4, 1)
			a := w.Run(harmless, test.open(t, w))
			var want hold.UnsupportedError
			before := sockets.OpenFDs(t)
			set, err := collect.App(t.Context(), []int{a.PID}, collect.Options{NS: w.NS})
			if name == "pidfd of another process" { // CRIU's own check; only Preflight takes the time
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsNil(set.Close()))
			} else {
				qt.Assert(t, qt.ErrorIs(err, hold.ErrUnsupported))
				var got *hold.UnsupportedError
				qt.Assert(t, qt.ErrorAs(err, &got))
				want = hold.UnsupportedError{PID: a.PID, FD: 4, What: test.what, Remedy: got.Remedy}
				qt.Assert(t, qt.DeepEquals(*got, want))
				qt.Assert(t, qt.Not(qt.Equals(got.Remedy, "")))
				qt.Assert(t, qt.ErrorMatches(err, fmt.Sprintf(`process %d has an unsupported .* open as descriptor 4: .+`, a.PID)))
			}
			qt.Assert(t, qt.Equals(sockets.OpenFDs(t), before))

			findings := vet.Preflight(t.Context(), []int{a.PID})
			if test.onlyNow {
				qt.Assert(t, qt.IsNil(vet.Errors(findings)))
				return
			}
			var got *hold.UnsupportedError
			qt.Assert(t, qt.ErrorAs(vet.Errors(findings), &got))
			qt.Assert(t, qt.Equals(got.PID, a.PID))
			qt.Assert(t, qt.Equals(got.FD, 4))
			qt.Assert(t, qt.Equals(got.What, test.what))
		})
	}
}
