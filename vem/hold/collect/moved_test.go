package collect_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// CRIU finds the file of a unix socket by the name that it was bound to. So a socket
// whose file is elsewhere is held, and a copy's is bound where the file is.
func TestMoved(t *testing.T) {
	for name, test := range map[string]struct {
		move  func(dir, from string) (to string, err error)
		moved bool
		names int
	}{
		"stays": {func(_, from string) (string, error) { return from, nil }, false, 0},
		"renamed": {func(dir, from string) (string, error) {
			to := filepath.Join(dir, "to")
			return to, os.Rename(from, to)
		}, true, 1},
		"linked": {func(dir, from string) (string, error) { return from, os.Link(from, filepath.Join(dir, "to")) }, true, 2},
		"in a directory that was renamed": {func(dir, from string) (string, error) {
			to := filepath.Join(dir, "other")
			return filepath.Join(to, filepath.Base(from)), os.Rename(filepath.Dir(from), to)
		}, true, 1},
		"removed": {func(_, from string) (string, error) { return "", os.Remove(from) }, false, 0}, // CRIU makes it so again
	} {
		t.Run(name, func(t *testing.T) {
			w := sockets.New(t)
			dir := t.TempDir()
			bound := filepath.Join(dir, "from")
			qt.Assert(t, qt.IsNil(os.Mkdir(bound, 0o700)))
			bound = filepath.Join(bound, "socket")
			l := w.UnixListen(unix.SOCK_STREAM, 1, bound)
			inode := sockets.Inode(t, l)
			to, err := test.move(dir, bound)
			qt.Assert(t, qt.IsNil(err))
			a := w.Run(l)

			found, err := collect.FindMoved(t.Context(), []int{a.PID}, a.PID)
			qt.Assert(t, qt.IsNil(err))
			set := collected(w, a, collect.Options{})
			if !test.moved {
				qt.Assert(t, qt.HasLen(found, 0))
				qt.Assert(t, qt.HasLen(set.Sockets, 0))
				return
			}
			qt.Assert(t, qt.DeepEquals(found, []collect.Moved{{Inode: inode, Path: to, Names: test.names}}))
			qt.Assert(t, qt.HasLen(set.Sockets, 1))
			qt.Assert(t, qt.Equals(set.Sockets[0].Kind, hold.UnixListen))
			qt.Assert(t, qt.Equals(set.Sockets[0].Path, bound))
		})
	}
}
