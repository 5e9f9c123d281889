package owner_test

import (
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/owner"
)

// async gives a descriptor O_ASYNC and nobody as its owner, as a held socket has whose
// process has ended.
func async(t *testing.T, fd int) {
	t.Helper()
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_ASYNC|unix.O_NONBLOCK)
	qt.Assert(t, qt.IsNil(err))
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETOWN, 0)
	qt.Assert(t, qt.IsNil(err))
}

func sockets(t *testing.T) [2]int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Close(pair[0]))); qt.Check(t, qt.IsNil(unix.Close(pair[1]))) })
	async(t, pair[0])
	return pair
}

// TestSet makes this process the owner of sockets, by number of process and of thread and with a signal of its
// choice, and writes to them.
func TestSet(t *testing.T) {
	self := os.Getpid()
	for name, o := range map[string]openfile.Owner{
		"process": {Kind: openfile.OwnerProcess, ID: self},
		"thread":  {Kind: openfile.OwnerThread, ID: self}, // its first one
		"signal":  {Kind: openfile.OwnerProcess, ID: self, Signal: int(unix.SIGUSR2)},
	} {
		t.Run(name, func(t *testing.T) {
			want := os.Signal(unix.SIGIO)
			if o.Signal != 0 {
				want = unix.Signal(o.Signal)
			}
			got := make(chan os.Signal, 9)
			signal.Notify(got, want)
			defer signal.Stop(got)
			pair := sockets(t)
			o.At, o.Async = image.DescriptorRef{PID: self, FD: pair[0]}, true
			told, err := owner.Set([]int{self}, []openfile.Owner{o})
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.HasLen(told, 0)) // nothing has come yet
			_, err = unix.Write(pair[1], []byte("x"))
			qt.Assert(t, qt.IsNil(err))
			await(t, got, want)
		})
	}
}

func await(t *testing.T, got <-chan os.Signal, want os.Signal) {
	t.Helper()
	select {
	case s := <-got:
		qt.Assert(t, qt.Equals(s, want))
	case <-time.After(time.Minute):
		t.Fatal("no signal")
	}
}

// TestTell has something come before the owner is there again.
func TestTell(t *testing.T) {
	self := os.Getpid()
	got := make(chan os.Signal, 9)
	signal.Notify(got, unix.SIGIO)
	defer signal.Stop(got)
	pair := sockets(t)
	_, err := unix.Write(pair[1], []byte("x"))
	qt.Assert(t, qt.IsNil(err))
	told, err := owner.Set([]int{self}, []openfile.Owner{{At: image.DescriptorRef{PID: self, FD: pair[0]}, Kind: openfile.OwnerProcess, ID: self, Async: true}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(told, 1))
	told.Tell()
	await(t, got, unix.SIGIO)
}

// TestSetWithoutOwner leaves a file alone whose owner, or who had it open, has ended.
func TestSetWithoutOwner(t *testing.T) {
	pair := sockets(t)
	self := os.Getpid()
	for _, o := range []openfile.Owner{
		{At: image.DescriptorRef{PID: self, FD: pair[0]}, Kind: openfile.OwnerProcess, ID: 1 << 30, Async: true},
		{At: image.DescriptorRef{PID: 1 << 30, FD: pair[0]}, Kind: openfile.OwnerProcess, ID: self, Async: true},
	} {
		told, err := owner.Set([]int{self}, []openfile.Owner{o})
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(told, 0))
	}
	of, err := unix.FcntlInt(uintptr(pair[0]), unix.F_GETOWN, 0)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(of, 0))
}
