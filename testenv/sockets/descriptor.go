package sockets

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// Inode is the inode number of what a file leads to.
func Inode(tb testing.TB, f *os.File) uint64 {
	tb.Helper()
	var st unix.Stat_t
	qt.Assert(tb, qt.IsNil(unix.Fstat(int(f.Fd()), &st)))
	return st.Ino
}

// OpenFDs counts this process's descriptors of sockets.
func OpenFDs(tb testing.TB) int {
	tb.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	qt.Assert(tb, qt.IsNil(err))
	n := 0
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to[:min(len(to), 7)] == "socket:" {
			n++
		}
	}
	return n
}

// UnreadInotify has an event in its queue.
func UnreadInotify(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	qt.Assert(tb, qt.IsNil(err))
	dir := tb.TempDir()
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)))
	return fd
}
