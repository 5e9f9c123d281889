package collect_test

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// objects makes an eventfd without and one with EFD_SEMAPHORE, and an inotify
// instance with an event in its queue; the counting one twice.
func objects(t *testing.T) []*os.File {
	t.Helper()
	plain, err := unix.Eventfd(5, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	qt.Assert(t, qt.IsNil(err))
	counting, err := unix.Eventfd(2, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE)
	qt.Assert(t, qt.IsNil(err))
	again, err := unix.FcntlInt(uintptr(counting), unix.F_DUPFD_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	files := make([]*os.File, 0, 4)
	for _, fd := range []int{plain, counting, sockets.UnreadInotify(t), again} {
		files = append(files, os.NewFile(uintptr(fd), "object"))
	}
	return files
}

// count reads an eventfd.
func count(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var b [8]byte
	_, err := unix.Read(int(f.Fd()), b[:])
	qt.Assert(t, qt.IsNil(err))
	return binary.NativeEndian.Uint64(b[:])
}

// tellsSemaphores tells whether the kernel shows which eventfds have EFD_SEMAPHORE.
func tellsSemaphores(t *testing.T) bool {
	t.Helper()
	return testenv.Kernel(6, 6)(t.Context()) == nil
}

// TestForCopy looks at what only a hold keeps.
func TestForCopy(t *testing.T) {
	w := sockets.New(t)
	all := objects(t)
	inotify := all[2]
	a := w.Run(all[0], all[1], all[3])
	at, err := collect.ForCopy(t.Context(), []int{a.PID})
	qt.Assert(t, qt.IsNil(err))
	if tellsSemaphores(t) {
		qt.Assert(t, qt.HasLen(at, 1))
		qt.Assert(t, qt.Equals(at[0].PID, a.PID))
		qt.Assert(t, qt.IsTrue(at[0].FD == 4 || at[0].FD == 5))
	} else {
		qt.Assert(t, qt.HasLen(at, 0))
	}

	b := w.Run(inotify)
	_, err = collect.ForCopy(t.Context(), []int{a.PID, b.PID})
	qt.Assert(t, qt.ErrorIs(err, hold.ErrUnsupported))
	qt.Assert(t, qt.ErrorMatches(err, ".*inotify instance with events that wait to be read open as descriptor 3.*"))
}

// TestObjectsSurvive has a process with other kernel objects than sockets end,
// and a later daemon take them from the holder.
func TestObjectsSurvive(t *testing.T) {
	w := sockets.New(t)
	a := w.Run(objects(t)...)
	set := collected(w, a, collect.Options{})
	a.Kill(t)
	items, err := set.Items()
	qt.Assert(t, qt.IsNil(err))
	again, err := hold.FromItems(items)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(again.Sockets, 0))
	qt.Assert(t, qt.HasLen(again.Objects, 3))

	byFD := map[int]hold.Object{}
	for i, o := range again.Objects {
		qt.Assert(t, qt.Equals(o.Number, i))
		for _, d := range o.Owners {
			qt.Assert(t, qt.Equals(d.PID, a.PID)) // it has no pid namespace of its own
			byFD[d.FD] = o
		}
	}
	qt.Assert(t, qt.HasLen(byFD, 4))
	qt.Assert(t, qt.HasLen(byFD[4].Owners, 2))
	qt.Assert(t, qt.Equals(byFD[4].Number, byFD[6].Number))
	qt.Assert(t, qt.Equals(byFD[3].Kind, hold.Eventfd))
	qt.Assert(t, qt.IsFalse(byFD[3].Semaphore))
	qt.Assert(t, qt.Equals(count(t, byFD[3].File), 5))
	qt.Assert(t, qt.Equals(byFD[4].Semaphore, tellsSemaphores(t)))
	qt.Assert(t, qt.Equals(count(t, byFD[4].File), 1))
	qt.Assert(t, qt.Equals(byFD[5].Kind, hold.Inotify))
	var event [64]byte
	n, err := unix.Read(int(byFD[5].File.Fd()), event[:])
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(event[16:n-15]), "x"))
}
