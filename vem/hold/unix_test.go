package hold_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
)

// unixBound makes a unix socket with a name.
func (w *world) unixBound(kind int, name string) *os.File {
	w.t.Helper()
	f := w.socket(unix.AF_UNIX, kind, 0)
	qt.Assert(w.t, qt.IsNil(unix.Bind(int(f.Fd()), &unix.SockaddrUnix{Name: name})))
	return f
}

func (w *world) unixListen(kind, backlog int, name string) *os.File {
	w.t.Helper()
	f := w.unixBound(kind, name)
	qt.Assert(w.t, qt.IsNil(unix.Listen(int(f.Fd()), backlog)))
	return f
}

// unixDial connects a new socket of the world to name.
func (w *world) unixDial(kind int, name string) *os.File {
	w.t.Helper()
	return w.connect(w.socket(unix.AF_UNIX, kind, 0), name)
}

func (w *world) connect(f *os.File, name string) *os.File {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(unix.Connect(int(f.Fd()), &unix.SockaddrUnix{Name: name})))
	return f
}

func (w *world) pair(kind int) (a, b *os.File) {
	w.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	qt.Assert(w.t, qt.IsNil(err))
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	w.t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// TestCollectUnix sorts an app's unix sockets into those that lead out of it and
// those that CRIU saves.
func TestCollectUnix(t *testing.T) {
	w := newWorld(t)
	dir, shared := t.TempDir(), t.TempDir()
	private, public := filepath.Join(dir, "private"), filepath.Join(shared, "public")
	log := filepath.Join(dir, "log")

	outsideLog := w.unixBound(unix.SOCK_DGRAM, log) // of a program beside the app
	defer closeNow(t, outsideLog)

	var files []*os.File
	want := map[uint64]hold.Kind{}
	saved := func(f *os.File) { files = append(files, f) }
	held := func(f *os.File, kind hold.Kind) {
		want[inode(t, f)] = kind
		saved(f)
	}
	// A listener of the app's own, with a connection of its own, and one waiting.
	saved(w.unixListen(unix.SOCK_STREAM, 5, private))
	saved(w.unixDial(unix.SOCK_STREAM, private))
	saved(w.accept(files[0]))
	saved(w.unixDial(unix.SOCK_STREAM, private))
	saved(w.socket(unix.AF_UNIX, unix.SOCK_STREAM, 0))
	saved(w.unixBound(unix.SOCK_DGRAM, "@abstract"))
	var a, b *os.File
	w.do(func() { a, b = w.pair(unix.SOCK_SEQPACKET) })
	saved(a)
	saved(b)
	// A listener below a host folder that nobody uses yet.
	held(w.unixListen(unix.SOCK_STREAM, 5, public), hold.UnixListen)
	// Its clients: outside, within, waiting.
	outer := w.unixDial(unix.SOCK_STREAM, public)
	held(w.accept(files[len(files)-1]), hold.Unix)
	held(w.unixDial(unix.SOCK_STREAM, public), hold.Unix)
	l := files[len(files)-3]
	held(w.accept(l), hold.Unix)
	held(w.unixDial(unix.SOCK_STREAM, public), hold.Unix)
	// A connection to the program beside the app.
	held(w.connect(w.socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0), log), hold.Unix)

	app := w.run(files...)
	set := w.collect(app, hold.Options{HostPaths: []string{shared}})
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
	closeNow(t, outer)
}

// TestCollectForeign connects the app with programs of other network
// namespaces, where CRIU does not look.
func TestCollectForeign(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
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
			l := w.unixListen(unix.SOCK_STREAM, 5, name)
			w.connect(w.here(unix.AF_UNIX, unix.SOCK_STREAM, 0), name)
			return w.accept(l)
		}, 1, 2, false},
		"client from another app": {func(t *testing.T) *os.File {
			t.Helper()
			name := path(t)
			l := w.unixListen(unix.SOCK_STREAM, 5, name)
			other.unixDial(unix.SOCK_STREAM, name)
			return w.accept(l)
		}, 1, 2, false},
		"datagrams to the host": {func(t *testing.T) *os.File {
			t.Helper()
			name := path(t)
			f := w.here(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			qt.Assert(t, qt.IsNil(unix.Bind(int(f.Fd()), &unix.SockaddrUnix{Name: name})))
			return w.unixDial(unix.SOCK_DGRAM, name)
		}, 1, 1, false},
		"datagrams to another app": {func(t *testing.T) *os.File {
			t.Helper()
			name := path(t)
			other.unixBound(unix.SOCK_DGRAM, name)
			return w.unixDial(unix.SOCK_DGRAM, name)
		}, 0, 0, true},
		"socket of the host": {func(*testing.T) *os.File { return w.here(unix.AF_UNIX, unix.SOCK_DGRAM, 0) }, 0, 1, false},
		"socket of its own":  {func(*testing.T) *os.File { return w.socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0) }, 0, 0, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := w.run(test.open(t))
			set, err := hold.Collect(t.Context(), []int{a.pid}, hold.Options{NS: w.ns})
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
		l := w.here(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		qt.Assert(t, qt.IsNil(unix.Bind(int(l.Fd()), &unix.SockaddrUnix{Name: name})))
		qt.Assert(t, qt.IsNil(unix.Listen(int(l.Fd()), 1)))
		client := w.unixDial(unix.SOCK_STREAM, name)
		again, err := unix.FcntlInt(client.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		qt.Assert(t, qt.IsNil(err))
		// Not accepted yet: it has no peer in the app's namespace.
		_, err = hold.Collect(t.Context(), []int{w.run(client).pid}, hold.Options{NS: w.ns})
		qt.Assert(t, qt.ErrorIs(err, hold.ErrUnsupported))
		w.accept(l)
		qt.Assert(t, qt.HasLen(w.collect(w.run(os.NewFile(uintptr(again), "client")), hold.Options{}).Sockets, 1))
	})
	t.Run("waiting client is gone", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "s")
		l := w.unixListen(unix.SOCK_STREAM, 1, name)
		closeNow(t, w.unixDial(unix.SOCK_STREAM, name))
		_, err := hold.Collect(t.Context(), []int{w.run(l).pid}, hold.Options{NS: w.ns, HostPaths: []string{"/"}})
		qt.Assert(t, qt.ErrorMatches(err, `.*unix listener with a waiting connection whose client is gone.*try again.*`))
	})
}

// TestWatchUnix wakes on traffic of unix sockets.
func TestWatchUnix(t *testing.T) {
	root := hold.Options{HostPaths: []string{"/"}}
	holdUnix := func(w *world, opt hold.Options, files ...*os.File) *hold.Set {
		a := w.run(files...)
		set := w.collect(a, opt)
		a.kill(w.t)
		return set
	}
	for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "seqpacket": unix.SOCK_SEQPACKET} {
		t.Run("listener/"+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := w.watch(holdUnix(w, root, w.unixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: -1})
			closeNow(t, w.unixDial(kind, path))
			client := w.unixDial(kind, path)
			asleep(t, watcher)
			w.write(client, "hello")
			awake(t, watcher, hold.Data)
		})
		t.Run("silent client/"+name, func(t *testing.T) {
			t.Parallel()
			const patience = 400 * time.Millisecond
			w := newWorld(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := w.watch(holdUnix(w, root, w.unixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: patience})
			closeNow(t, w.unixDial(kind, path))
			asleepFor(t, watcher, 2*patience)
			w.unixDial(kind, path)
			awake(t, watcher, hold.Silent)
		})
		t.Run("host's client/"+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := w.watch(holdUnix(w, root, w.unixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: -1})
			client := w.connect(w.here(unix.AF_UNIX, kind, 0), path)
			asleep(t, watcher)
			w.write(client, "hello")
			awake(t, watcher, hold.Data)
		})
		t.Run("another app's client/"+name, func(t *testing.T) {
			t.Parallel()
			w, other := newWorld(t), newWorld(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := w.watch(holdUnix(w, root, w.unixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: -1})
			other.unixDial(kind, path)
			awake(t, watcher, hold.Connect) // nobody can see what it sends
		})
		t.Run("connection/"+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var a, b *os.File
			w.do(func() { a, b = w.pair(kind) })
			watcher := w.watch(holdUnix(w, hold.Options{}, a), hold.WakePolicy{MinBytes: 3})
			w.write(b, "12")
			asleep(t, watcher)
			w.write(b, "345")
			awake(t, watcher, hold.Data)
		})
		t.Run("close/"+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var a, b *os.File
			w.do(func() { a, b = w.pair(kind) })
			set := holdUnix(w, hold.Options{}, a)
			onData, onConnect := w.watch(set, hold.WakePolicy{}), w.watch(set, hold.WakePolicy{Mode: hold.OnConnect})
			closeNow(t, b)
			asleep(t, onData)
			awake(t, onConnect, hold.Closed)
		})
	}
	t.Run("full queue", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		path := filepath.Join(t.TempDir(), "s")
		set := holdUnix(w, root, w.unixListen(unix.SOCK_STREAM, 2, path))
		qt.Assert(t, qt.IsNil(set.Arm())) // does not change unix listeners
		watcher := w.watch(set, hold.WakePolicy{SilentAfter: -1})
		w.unixDial(unix.SOCK_STREAM, path)
		asleep(t, watcher)
		w.unixDial(unix.SOCK_STREAM, path)
		awake(t, watcher, hold.Backlog)
	})
	t.Run("datagram", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		path := filepath.Join(t.TempDir(), "s")
		watcher := w.watch(holdUnix(w, root, w.unixBound(unix.SOCK_DGRAM, path)), hold.WakePolicy{MinBytes: 100})
		asleep(t, watcher)
		w.write(w.unixDial(unix.SOCK_DGRAM, path), "x")
		awake(t, watcher, hold.Datagram)
	})
	t.Run("peer credentials stay the app's", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		path := filepath.Join(t.TempDir(), "s")
		set := holdUnix(w, root, w.unixListen(unix.SOCK_STREAM, 2, path))
		before, err := unix.GetsockoptUcred(int(set.Sockets[0].File.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(set.Arm()))
		qt.Assert(t, qt.IsNil(set.Disarm()))
		after, err := unix.GetsockoptUcred(int(w.unixDial(unix.SOCK_STREAM, path).Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.DeepEquals(after, before))
	})
}

// TestExternalGone looks at an app one of whose processes has ended meanwhile.
func TestExternalGone(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	outside := w.unixBound(unix.SOCK_DGRAM, filepath.Join(dir, "log"))
	defer closeNow(t, outside)
	inside := w.unixDial(unix.SOCK_DGRAM, filepath.Join(dir, "log"))
	app, ended := w.run(inside), w.run()
	defer app.kill(t)
	ended.kill(t)
	out, _, err := hold.External(t.Context(), []int{ended.pid, app.pid}, hold.Options{NS: w.ns, HostPaths: []string{dir}})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(out, 1))
}
