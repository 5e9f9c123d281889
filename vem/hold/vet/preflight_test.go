package vet_test

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

// TestPreflightHarmless looks at a process with all kinds of things that can be
// held or saved.
func TestPreflightHarmless(t *testing.T) {
	w := sockets.New(t)
	var files []*os.File
	add := func(fd int, err error) {
		t.Helper()
		qt.Assert(t, qt.IsNil(err))
		files = append(files, os.NewFile(uintptr(fd), "file"))
	}
	add(unix.Eventfd(0, unix.EFD_CLOEXEC))
	add(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	add(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC))
	add(unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC))
	add(unix.InotifyInit1(unix.IN_CLOEXEC))
	add(unix.MemfdCreate("x", unix.MFD_CLOEXEC))
	for _, name := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/", "/proc/self/ns/net"} {
		add(unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0))
	}
	files = append(files,
		w.Listen(sockets.App4, 1), w.Bound(sockets.App6, unix.SOCK_DGRAM, 0), w.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0),
		w.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), w.Socket(unix.AF_INET, unix.SOCK_RAW, 1))
	a := w.Run(files...)
	qt.Assert(t, qt.HasLen(vet.Preflight(t.Context(), []int{a.PID}), 0))
	set := collected(w, a, collect.Options{})
	qt.Assert(t, qt.HasLen(set.Sockets, 3))

	t.Run("packet socket", func(t *testing.T) {
		a := w.Run(w.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))
		findings := vet.Preflight(t.Context(), []int{a.PID})
		qt.Assert(t, qt.HasLen(findings, 1))
		qt.Assert(t, qt.Equals(findings[0].Severity, vet.Warning))
		qt.Assert(t, qt.ErrorMatches(findings[0].Err, `process \d+ has .*packet socket open as descriptor 3: .*`))
		qt.Assert(t, qt.IsNil(vet.Errors(findings)))
		qt.Assert(t, qt.HasLen(collected(w, a, collect.Options{}).Sockets, 0))
	})
	t.Run("io_uring that is only mapped", func(t *testing.T) {
		a := w.RunAs("uring", refusals()["io_uring"].open(t, w))
		err := vet.Errors(vet.Preflight(t.Context(), []int{a.PID}))
		qt.Assert(t, qt.ErrorMatches(err, `process \d+ uses an unsupported io_uring: .*`))
	})
	t.Run("file outside", func(t *testing.T) {
		fd, err := unix.OpenTree(unix.AT_FDCWD, os.Args[0], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		qt.Assert(t, qt.IsNil(err))
		a := w.Run(os.NewFile(uintptr(fd), "tree"))
		findings := vet.Preflight(t.Context(), []int{a.PID})
		qt.Assert(t, qt.HasLen(findings, 1))
		qt.Assert(t, qt.Equals(findings[0].Severity, vet.Warning))
	})
	t.Run("device outside", func(t *testing.T) {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		qt.Assert(t, qt.IsNil(err))
		a := w.Run(os.NewFile(uintptr(fd), "tree"))
		err = vet.Errors(vet.Preflight(t.Context(), []int{a.PID}))
		qt.Assert(t, qt.ErrorMatches(err, `process \d+ has an unsupported device ".*", on a mount that no process of the app sees, open as descriptor 3: .*unshare.*`))
	})
}

// BenchmarkPreflight reports what looking ahead costs, on the running app.
func BenchmarkPreflight(b *testing.B) {
	w := sockets.New(b)
	a, _ := w.RunConnected(1000)
	b.ResetTimer()
	for b.Loop() {
		qt.Assert(b, qt.HasLen(vet.Preflight(b.Context(), []int{a.PID}), 0))
	}
}
