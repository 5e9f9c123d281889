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

// TestCollectUnix sorts an app's unix sockets into those that lead out of it and
// those that CRIU saves.
func TestCollectUnix(t *testing.T) {
	w := sockets.New(t)
	dir, shared := t.TempDir(), t.TempDir()
	private, public := filepath.Join(dir, "private"), filepath.Join(shared, "public")
	log := filepath.Join(dir, "log")

	outsideLog := w.UnixBound(unix.SOCK_DGRAM, log) // of a program beside the app
	defer sockets.Close(t, outsideLog)

	var files []*os.File
	want := map[uint64]hold.Kind{}
	saved := func(f *os.File) { files = append(files, f) }
	held := func(f *os.File, kind hold.Kind) {
		want[sockets.Inode(t, f)] = kind
		saved(f)
	}
	// A listener of the app's own, with a connection of its own, and one waiting.
	saved(w.UnixListen(unix.SOCK_STREAM, 5, private))
	saved(w.UnixDial(unix.SOCK_STREAM, private))
	saved(w.Accept(files[0]))
	saved(w.UnixDial(unix.SOCK_STREAM, private))
	saved(w.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0))
	saved(w.UnixBound(unix.SOCK_DGRAM, "@abstract"))
	var a, b *os.File
	w.Do(func() { a, b = w.Pair(unix.SOCK_SEQPACKET) })
	saved(a)
	saved(b)
	// A listener below a host folder that nobody uses yet.
	held(w.UnixListen(unix.SOCK_STREAM, 5, public), hold.UnixListen)
	// Its clients: outside, within, waiting.
	outer := w.UnixDial(unix.SOCK_STREAM, public)
	held(w.Accept(files[len(files)-1]), hold.Unix)
	held(w.UnixDial(unix.SOCK_STREAM, public), hold.Unix)
	l := files[len(files)-3]
	held(w.Accept(l), hold.Unix)
	held(w.UnixDial(unix.SOCK_STREAM, public), hold.Unix)
	// A connection to the program beside the app.
	held(w.Connect(w.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0), log), hold.Unix)

	app := w.Run(files...)
	set := collected(w, app, collect.Options{HostPaths: []string{shared}})
	got := map[uint64]hold.Kind{}
	for _, s := range set.Sockets {
		got[s.Inode] = s.Kind
		if s.Kind == hold.UnixListen {
			qt.Assert(t, qt.Equals(s.Path, public))
			qt.Assert(t, qt.Equals(s.State, "LISTEN"))
			qt.Assert(t, qt.Equals(s.Backlog, 5))
		}
	}
	qt.Assert(t, qt.DeepEquals(got, want))
	qt.Assert(t, qt.HasLen(set.External(), len(want)-1)) // not the listener
	sockets.Close(t, outer)
}

// TestCollectForeign connects the app with programs of other network
// namespaces, where CRIU does not look.
func TestCollectForeign(t *testing.T) {
	w, other := sockets.New(t), sockets.New(t)
	path := func(t *testing.T) string {
		t.Helper()
		return filepath.Join(t.TempDir(), "s")
	}
	tests := map[string]struct {
		open         func(t *testing.T) *os.File
		held, unseen int // numbers
		refused      bool
	}{
		"client from the host": {func(t *testing.T) *os.File {
			t.Helper()
			name := path(t)
			l := w.UnixListen(unix.SOCK_STREAM, 5, name)
			w.Connect(w.Here(unix.AF_UNIX, unix.SOCK_STREAM, 0), name)
			return w.Accept(l)
		}, 1, 2, false},
		"client from another app": {func(t *testing.T) *os.File {
			t.Helper()
			name := path(t)
			l := w.UnixListen(unix.SOCK_STREAM, 5, name)
			other.UnixDial(unix.SOCK_STREAM, name)
			return w.Accept(l)
		}, 1, 2, false},
		"datagrams to the host": {func(t *testing.T) *os.File {
			t.Helper()
			name := path(t)
			f := w.Here(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			qt.Assert(t, qt.IsNil(unix.Bind(int(f.Fd()), &unix.SockaddrUnix{Name: name})))
			return w.UnixDial(unix.SOCK_DGRAM, name)
		}, 1, 1, false},
		"datagrams to another app": {func(t *testing.T) *os.File {
			t.Helper()
			name := path(t)
			other.UnixBound(unix.SOCK_DGRAM, name)
			return w.UnixDial(unix.SOCK_DGRAM, name)
		}, 0, 0, true},
		"socket of the host": {func(*testing.T) *os.File { return w.Here(unix.AF_UNIX, unix.SOCK_DGRAM, 0) }, 0, 1, false},
		"socket of its own":  {func(*testing.T) *os.File { return w.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0) }, 0, 0, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := w.Run(test.open(t))
			set, err := collect.App(t.Context(), []int{a.PID}, collect.Options{NS: w.NS})
			if test.refused {
				var u *hold.UnsupportedError
				qt.Assert(t, qt.ErrorAs(err, &u))
				qt.Assert(t, qt.Equals(u.FD, 3))
				qt.Assert(t, qt.Equals(u.What, "unix connection to another network namespace"))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(set.Sockets, test.held))
			qt.Check(t, qt.HasLen(set.External(), test.held))
			qt.Check(t, qt.HasLen(set.Unseen, test.unseen))
			qt.Assert(t, qt.IsNil(set.Close()))
		})
	}
	t.Run("client of a host's listener", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "s")
		l := w.Here(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		qt.Assert(t, qt.IsNil(unix.Bind(int(l.Fd()), &unix.SockaddrUnix{Name: name})))
		qt.Assert(t, qt.IsNil(unix.Listen(int(l.Fd()), 1)))
		client := w.UnixDial(unix.SOCK_STREAM, name)
		again, err := unix.FcntlInt(client.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		qt.Assert(t, qt.IsNil(err))
		// Not accepted yet: it has no peer in the app's namespace.
		_, err = collect.App(t.Context(), []int{w.Run(client).PID}, collect.Options{NS: w.NS})
		qt.Assert(t, qt.ErrorIs(err, hold.ErrUnsupported))
		w.Accept(l)
		qt.Assert(t, qt.HasLen(collected(w, w.Run(os.NewFile(uintptr(again), "client")), collect.Options{}).Sockets, 1))
	})
	t.Run("waiting client is gone", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "s")
		l := w.UnixListen(unix.SOCK_STREAM, 1, name)
		sockets.Close(t, w.UnixDial(unix.SOCK_STREAM, name))
		_, err := collect.App(t.Context(), []int{w.Run(l).PID}, collect.Options{NS: w.NS, HostPaths: []string{"/"}})
		qt.Assert(t, qt.ErrorMatches(err, `.*unix listener with a waiting connection whose client is gone.*try again.*`))
	})
}

// TestExternalGone looks at an app one of whose processes has ended meanwhile.
func TestExternalGone(t *testing.T) {
	w := sockets.New(t)
	dir := t.TempDir()
	outside := w.UnixBound(unix.SOCK_DGRAM, filepath.Join(dir, "log"))
	defer sockets.Close(t, outside)
	inside := w.UnixDial(unix.SOCK_DGRAM, filepath.Join(dir, "log"))
	app, ended := w.Run(inside), w.Run()
	defer app.Kill(t)
	ended.Kill(t)
	out, _, err := collect.External(t.Context(), []int{ended.PID, app.PID}, collect.Options{NS: w.NS, HostPaths: []string{dir}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(out, 1))
}
