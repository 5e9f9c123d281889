package vet_test

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

// TestPreflightLosing has a process keep things that CRIU would save in part.
func TestPreflightLosing(t *testing.T) {
	tests := map[string]struct {
		open     func(t *testing.T) int
		what     string
		onlyCopy bool // a hold keeps it
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
		}},
		"unread inotify": {open: func(t *testing.T) int {
			t.Helper()
			return sockets.UnreadInotify(t)
		}, what: "inotify instance with events that wait to be read", onlyCopy: true},
		"unread inotify on a file system of the app": {open: func(t *testing.T) int {
			t.Helper()
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			qt.Assert(t, qt.IsNil(err))
			watchPrivateMount(t, fd)
			return fd
		}, what: "inotify instance with events that wait to be read"},
		"unread inotify with signals": {open: func(t *testing.T) int {
			t.Helper()
			fd := sockets.UnreadInotify(t)
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_ASYNC)
			qt.Assert(t, qt.IsNil(err))
			return fd
		}, what: "inotify instance with events that wait to be read", onlyCopy: true},
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
		}, what: "POSIX message queue /snapctl-hold-test (deleted)", onlyCopy: queuesMounted()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := sockets.New(t)
			a := w.Run(os.NewFile(uintptr(test.open(t)), name))
			pids := []int{a.PID}
			check := func(err error, what string) {
				t.Helper()
				if what == "" {
					qt.Assert(t, qt.IsNil(err))
					return
				}
				var got *hold.UnsupportedError
				qt.Assert(t, qt.ErrorAs(err, &got))
				qt.Assert(t, qt.Equals(got.What, what))
				qt.Assert(t, qt.Equals(got.FD, 3))
			}
			check(vet.Errors(vet.PreflightCopy(t.Context(), pids)), test.what)
			if test.onlyCopy {
				test.what = ""
			}
			check(vet.Errors(vet.Preflight(t.Context(), pids)), test.what)
		})
	}
}

// queuesMounted tells whether the machine has its message queues where a hold looks
// for them.
func queuesMounted() bool {
	const magic = 0x19800202 // ipc/mqueue.c
	var fs unix.Statfs_t
	return unix.Statfs(mqueue.Mount, &fs) == nil && fs.Type == magic
}

// watchPrivateMount watches a tmpfs that no mount namespace has, and has an
// event of it wait.
func watchPrivateMount(t *testing.T, inotify int) {
	t.Helper()
	config, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(config)
	qt.Assert(t, qt.IsNil(unix.FsconfigCreate(config)))
	mount, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Close(mount))) })
	dir := fmt.Sprintf("/proc/self/fd/%d", mount)
	_, err = unix.InotifyAddWatch(inotify, dir, unix.IN_CREATE)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(dir+"/x", nil, 0o600)))
}
