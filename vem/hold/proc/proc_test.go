package proc_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/proc"
)

// nobody is a process id that no process has: it is above the limit of the kernel.
const nobody = 1 << 30

// pipe makes a non-blocking pipe.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	qt.Assert(t, qt.IsNil(unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK)))
	return p[0], p[1]
}

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(fd, &st)))
	return st.Ino
}

func TestDuplicate(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	want := inode(t, w)
	kept, given := -1, -1
	err := proc.Duplicate(t.Context(), os.Getpid(), func(fd, copied int, at proc.Attributes) (bool, error) {
		switch fd {
		case w:
			qt.Check(t, qt.Equals(at.Inode, want))
			qt.Check(t, qt.Equals(at.Mode&unix.S_IFMT, unix.S_IFIFO))
			kept = copied
			return true, nil
		case r:
			given = copied
		}
		return false, nil
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(inode(t, kept), want)) // ours now
	qt.Assert(t, qt.IsNil(unix.Close(kept)))
	_, err = unix.FcntlInt(uintptr(given), unix.F_GETFD, 0)
	qt.Assert(t, qt.ErrorIs(err, unix.EBADF)) // closed when it was looked at
}

func TestDuplicateEnds(t *testing.T) {
	visited := 0
	ctx, cancel := context.WithCancel(t.Context())
	err := proc.Duplicate(ctx, os.Getpid(), func(int, int, proc.Attributes) (bool, error) {
		visited++
		cancel()
		return false, nil
	})
	qt.Assert(t, qt.ErrorIs(err, context.Canceled))
	qt.Assert(t, qt.Equals(visited, 1))
	err = proc.Duplicate(t.Context(), os.Getpid(), func(int, int, proc.Attributes) (bool, error) { return false, os.ErrInvalid })
	qt.Assert(t, qt.ErrorIs(err, os.ErrInvalid))
}

// Whatever is asked of a process that has ended, the answer says so.
func TestGone(t *testing.T) {
	for name, ask := range map[string]func() error{
		"descriptors": func() error { _, err := proc.Descriptors(nobody); return err },
		"duplicate":   func() error { return proc.Duplicate(t.Context(), nobody, nil) },
		"mounts":      func() error { _, err := proc.MountPoints(nobody); return err },
		"status":      func() error { _, err := proc.ReadStatus(nobody); return err },
		"inner id":    func() error { _, err := proc.InnerPID(nobody); return err },
	} {
		t.Run(name, func(t *testing.T) { qt.Assert(t, qt.ErrorIs(ask(), proc.ErrGone)) })
	}
	err := proc.Gone(1, os.ErrPermission)
	qt.Assert(t, qt.ErrorIs(err, os.ErrPermission))
	qt.Assert(t, qt.IsFalse(errors.Is(err, proc.ErrGone)))
}

func TestFDInfo(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	qt.Assert(t, qt.IsNil(os.WriteFile(name, []byte("hello"), 0o600)))
	f, err := os.Open(name)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	_, err = f.Seek(3, 0)
	qt.Assert(t, qt.IsNil(err))
	info, err := proc.FDInfo(os.Getpid(), int(f.Fd()))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(info["pos"], "3"))
	link, err := os.Readlink(proc.FDPath(os.Getpid(), int(f.Fd())))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(link, name))
}

func TestMountPoints(t *testing.T) {
	var st unix.Statx_t
	qt.Assert(t, qt.IsNil(unix.Statx(unix.AT_FDCWD, "/proc", 0, unix.STATX_MNT_ID, &st)))
	points, err := proc.MountPoints(os.Getpid())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(points[st.Mnt_id], "/proc"))

	var d proc.Devices
	known, err := d.Mounted(unix.Mkdev(st.Dev_major, st.Dev_minor))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(known))
	known, err = d.Mounted(unix.Mkdev(4095, 1<<20-1))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsFalse(known))
}

func TestHasOwnMount(t *testing.T) {
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(fd)
	link, err := os.Readlink(proc.FDPath(os.Getpid(), fd))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(proc.HasOwnMount(link)))
	qt.Assert(t, qt.IsFalse(proc.HasOwnMount(t.TempDir())))
}

func TestBelow(t *testing.T) {
	for name, test := range map[string]struct {
		path    string
		folders []string
		want    bool
	}{
		"the folder itself": {"/a/b", []string{"/a/b"}, true},
		"in it":             {"/a/b/c", []string{"/x", "/a/b/"}, true},
		"beside it":         {"/a/bc", []string{"/a/b"}, false},
		"above it":          {"/a", []string{"/a/b"}, false},
		"by a detour":       {"/a/b/../c", []string{"/a/b"}, false},
		"root":              {"/a", []string{"/"}, true},
		"no path":           {"@/a", []string{"/"}, false},
		"no folder":         {"/a", nil, false},
	} {
		t.Run(name, func(t *testing.T) { qt.Assert(t, qt.Equals(proc.Below(test.path, test.folders), test.want)) })
	}
}

// A file that was made of a descriptor owns it, has the same open file description,
// and is unknown to the poller of the Go runtime.
func TestWrapper(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(w)
	wrapper, err := proc.NewWrapper()
	qt.Assert(t, qt.IsNil(err))
	f, err := wrapper.File(r, "pipe")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(wrapper.Close()))
	_, err = unix.FcntlInt(uintptr(r), unix.F_GETFD, 0)
	qt.Assert(t, qt.ErrorIs(err, unix.EBADF))

	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(flags&unix.O_NONBLOCK, unix.O_NONBLOCK))
	qt.Assert(t, qt.Equals(inode(t, int(f.Fd())), inode(t, w)))
	qt.Assert(t, qt.IsNil(f.Close()))
	_, err = unix.Write(w, []byte("x"))
	qt.Assert(t, qt.ErrorIs(err, unix.EPIPE)) // nobody else had it
}

func TestPoll(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	p := []unix.PollFd{{Fd: int32(r), Events: unix.POLLIN}}
	qt.Assert(t, qt.IsNil(proc.Poll(p)))
	qt.Assert(t, qt.Equals(p[0].Revents, 0))
	_, err := unix.Write(w, []byte("x"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(proc.Poll(p)))
	qt.Assert(t, qt.Equals(p[0].Revents, unix.POLLIN))
}

// Who looks among some descriptors finds these alone, of the processes that were named.
func TestAmong(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	seen := func(ctx context.Context) (fds []int) {
		qt.Assert(t, qt.IsNil(proc.Duplicate(ctx, os.Getpid(), func(fd, _ int, _ proc.Attributes) (bool, error) {
			fds = append(fds, fd)
			return false, nil
		})))
		return fds
	}
	ctx := proc.Among(t.Context(), map[int][]int{os.Getpid(): {w}})
	qt.Check(t, qt.DeepEquals(seen(ctx), []int{w}))
	qt.Check(t, qt.IsTrue(len(seen(proc.All(ctx))) > 1))
	qt.Check(t, qt.IsTrue(len(seen(proc.Among(t.Context(), map[int][]int{nobody: nil}))) > 1))
}
