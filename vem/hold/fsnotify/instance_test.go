package fsnotify_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/hold/fsnotify"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// watch makes an inotify instance that watches a directory.
func watch(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { unix.Close(fd) })
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
	qt.Assert(t, qt.IsNil(err))
	return fd
}

// unmounted is the root of a tmpfs that no mount namespace has.
func unmounted(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Root)
	config, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(config)
	qt.Assert(t, qt.IsNil(unix.FsconfigCreate(config)))
	mount, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d", mount)
}

// Watches last if their file systems are mounted outside of the app too.
func TestLasts(t *testing.T) {
	var d proc.Devices
	lasts := func(fd int) bool {
		ok, err := fsnotify.Lasts(&d, os.Getpid(), fd)
		qt.Assert(t, qt.IsNil(err))
		return ok
	}
	fd := watch(t, "/proc/self")
	qt.Assert(t, qt.IsTrue(lasts(fd)))
	_, err := unix.InotifyAddWatch(fd, unmounted(t), unix.IN_CREATE)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsFalse(lasts(fd)))
}

func TestUnread(t *testing.T) {
	dir := t.TempDir()
	fd := watch(t, dir)
	qt.Assert(t, qt.IsFalse(fsnotify.Waiting(fd)))
	qt.Assert(t, qt.IsFalse(fsnotify.Unread(os.Getpid(), fd)))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)))
	qt.Assert(t, qt.IsTrue(fsnotify.Waiting(fd)))
	qt.Assert(t, qt.IsTrue(fsnotify.Unread(os.Getpid(), fd)))
}

// A watched directory is found by its inode.
func TestFinder(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := filepath.Join(t.TempDir(), "watched")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	fd := watch(t, dir)
	marks, err := fsnotify.Marks("self", fd)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(marks, 1))
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Stat(dir, &st)))
	qt.Assert(t, qt.Equals(marks[0].Inode, st.Ino))

	all, err := fsnotify.FindWatched(t.Context(), []int{os.Getpid()}, os.Getpid())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(all, []fsnotify.Watched{{Device: marks[0].Device, Inode: st.Ino, Path: dir}}))

	finder := fsnotify.NewFinder(os.Getpid())
	defer finder.Close()
	found, err := finder.Find(marks[0])
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(found))
}
