package cargo_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cargo"
)

// small mounts a file system of so many bytes.
func small(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, unix.MNT_DETACH))) })
	return dir
}

func TestNoRoom(t *testing.T) {
	needRoot(t)
	a := newHost(t, t.TempDir())
	d := data{root: t.TempDir(), memory: [][]byte{random(3 << 20)}}
	s := a.take(t, "s", d)
	b := newHost(t, small(t, 4<<20))
	o := transfer(t, a, s, b, "s", nil)
	for _, err := range []error{o.sendErr, o.gotErr} {
		qt.Check(t, qt.ErrorIs(err, unix.ENOSPC))
		space, ok := errors.AsType[*cargo.SpaceError](err)
		qt.Assert(t, qt.IsTrue(ok))
		qt.Check(t, qt.IsTrue(space.NeededBytes > 4<<20 && space.FreeBytes <= 4<<20), qt.Commentf("%v", err))
	}
	qt.Check(t, qt.Equals(o.sent.DoneBytes, 0))
	qt.Check(t, qt.HasLen(b.all(t), 0))
}

// Somebody else takes the room in the middle.
func TestBecomesFull(t *testing.T) {
	needRoot(t)
	a := newHost(t, t.TempDir())
	s := a.take(t, "s", data{root: t.TempDir(), memory: [][]byte{random(3 << 20)}})
	dir := small(t, 8<<20)
	b := newHost(t, dir)
	o := transfer(t, a, s, b, "s", func(source, _ *wire) {
		source.each = func(i int, m []byte) ([]byte, error) {
			if i == 10 {
				return m, os.WriteFile(filepath.Join(dir, "other"), make([]byte, 6<<20), 0o600)
			}
			return m, nil
		}
	})
	for _, err := range []error{o.sendErr, o.gotErr} {
		qt.Check(t, qt.ErrorIs(err, unix.ENOSPC))
		qt.Check(t, qt.ErrorMatches(err, ".*the disk became full in the middle.*"))
		space, ok := errors.AsType[*cargo.SpaceError](err)
		qt.Assert(t, qt.IsTrue(ok))
		qt.Check(t, qt.IsTrue(space.NeededBytes > space.FreeBytes), qt.Commentf("%v", err))
	}
	b.sweep(t)
	qt.Check(t, qt.HasLen(b.all(t), 0))
}
