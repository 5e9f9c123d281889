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

// openFile opens a file of its own.
func openFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { f.Close() })
	return f
}

func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// A file of a bind is held if it is locked, so that nobody else gets the lock while the
// app sleeps. A copy of the app has to do without.
func TestLent(t *testing.T) {
	w := sockets.New(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "locked")
	locked, plain := openFile(t, name), openFile(t, filepath.Join(dir, "plain"))
	_, err := locked.WriteString("12345")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(lock(locked)))
	a := w.Run(locked, plain)
	opt := collect.Options{HostPaths: []string{"/"}, Binds: []collect.Bind{{Inside: dir, Host: dir}}}

	found, err := collect.FindLent(t.Context(), []int{a.PID}, opt)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(found, 1))
	qt.Assert(t, qt.Equals(found[0].Kind, hold.File))
	qt.Assert(t, qt.DeepEquals(found[0].Owners, []hold.Descriptor{{PID: a.PID, FD: 3}}))
	lent := *found[0].Lent
	qt.Assert(t, qt.Equals(lent.Flags&unix.O_ACCMODE, unix.O_RDWR))
	lent.Flags = 0
	qt.Assert(t, qt.Equals(lent, hold.Lent{Path: name, Name: name, Position: 5, Mounted: true}))

	known, copied := opt, opt
	known.Known, copied.Copy = []string{found[0].External}, true
	for _, o := range []collect.Options{known, copied, {}} {
		none, err := collect.FindLent(t.Context(), []int{a.PID}, o)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(none, 0))
	}

	set := collected(w, a, opt)
	qt.Assert(t, qt.DeepEquals(set.External(), []string{found[0].External}))
	a.Kill(t)
	other := openFile(t, name)
	qt.Assert(t, qt.ErrorIs(lock(other), unix.EWOULDBLOCK))
	qt.Assert(t, qt.IsNil(set.Close()))
	qt.Assert(t, qt.IsNil(lock(other)))
}
