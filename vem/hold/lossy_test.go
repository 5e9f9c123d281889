package hold_test

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

// TestPreflightLosing has a process keep things that CRIU would save in part.
func TestPreflightLosing(t *testing.T) {
	tests := map[string]struct {
		open func(t *testing.T) int
		what string
	}{
		"eventfd": {open: func(t *testing.T) int {
			t.Helper()
			fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
			qt.Assert(t, qt.IsNil(err))
			return fd
		}},
		"counting eventfd": {open: func(t *testing.T) int {
			t.Helper()
			fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE)
			qt.Assert(t, qt.IsNil(err))
			return fd
		}, what: "eventfd with EFD_SEMAPHORE"},
		"unread inotify": {open: func(t *testing.T) int {
			t.Helper()
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			qt.Assert(t, qt.IsNil(err))
			dir := t.TempDir()
			_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)))
			return fd
		}, what: "inotify instance with events that wait to be read"},
		"message queue": {open: func(t *testing.T) int {
			t.Helper()
			name := append([]byte("snapctl-hold-test"), 0) // mq_open(2) takes it without the slash
			fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600, 0, 0, 0)
			if errno != 0 {
				t.Skipf("no message queues here: %v", errno)
			}
			_, _, errno = unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(&name[0])), 0, 0)
			qt.Assert(t, qt.Equals(errno, 0))
			return int(fd)
		}, what: "POSIX message queue /snapctl-hold-test (deleted)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.run(os.NewFile(uintptr(test.open(t)), name))
			findings := hold.Preflight(t.Context(), []int{a.pid})
			if test.what == "" {
				qt.Assert(t, qt.HasLen(findings, 0))
				return
			}
			var got *hold.UnsupportedError
			qt.Assert(t, qt.ErrorAs(hold.Errors(findings), &got))
			qt.Assert(t, qt.Equals(got.What, test.what))
			qt.Assert(t, qt.Equals(got.FD, 3))
		})
	}
}
