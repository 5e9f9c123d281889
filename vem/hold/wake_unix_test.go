package hold_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
)

// TestWatchUnix wakes on traffic of unix sockets.
func TestWatchUnix(t *testing.T) {
	root := hold.Options{HostPaths: []string{"/"}}
	holdUnix := func(w *sockets.World, opt hold.Options, files ...*os.File) *hold.Set {
		a := w.Run(files...)
		set := collected(w, a, opt)
		a.Kill(w.T)
		return set
	}
	for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "seqpacket": unix.SOCK_SEQPACKET} {
		t.Run("listener/"+name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: -1})
			sockets.Close(t, w.UnixDial(kind, path))
			client := w.UnixDial(kind, path)
			asleep(t, watcher)
			w.Write(client, "hello")
			awake(t, watcher, hold.Data)
		})
		t.Run("silent client/"+name, func(t *testing.T) {
			t.Parallel()
			const patience = 400 * time.Millisecond
			w := sockets.New(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: patience})
			sockets.Close(t, w.UnixDial(kind, path))
			asleepFor(t, watcher, 2*patience)
			w.UnixDial(kind, path)
			awake(t, watcher, hold.Silent)
		})
		t.Run("host's client/"+name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: -1})
			client := w.Connect(w.Here(unix.AF_UNIX, kind, 0), path)
			asleep(t, watcher)
			w.Write(client, "hello")
			awake(t, watcher, hold.Data)
		})
		t.Run("another app's client/"+name, func(t *testing.T) {
			t.Parallel()
			w, other := sockets.New(t), sockets.New(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), hold.WakePolicy{SilentAfter: -1})
			other.UnixDial(kind, path)
			awake(t, watcher, hold.Connect) // nobody can see what it sends
		})
		t.Run("connection/"+name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			var a, b *os.File
			w.Do(func() { a, b = w.Pair(kind) })
			watcher := watch(w, holdUnix(w, hold.Options{}, a), hold.WakePolicy{MinBytes: 3})
			w.Write(b, "12")
			asleep(t, watcher)
			w.Write(b, "345")
			awake(t, watcher, hold.Data)
		})
		t.Run("close/"+name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			var a, b *os.File
			w.Do(func() { a, b = w.Pair(kind) })
			set := holdUnix(w, hold.Options{}, a)
			onData, onConnect := watch(w, set, hold.WakePolicy{}), watch(w, set, hold.WakePolicy{Mode: hold.OnConnect})
			sockets.Close(t, b)
			asleep(t, onData)
			awake(t, onConnect, hold.Closed)
		})
	}
	t.Run("full queue", func(t *testing.T) {
		t.Parallel()
		w := sockets.New(t)
		path := filepath.Join(t.TempDir(), "s")
		set := holdUnix(w, root, w.UnixListen(unix.SOCK_STREAM, 2, path))
		qt.Assert(t, qt.IsNil(set.Arm())) // does not change unix listeners
		watcher := watch(w, set, hold.WakePolicy{SilentAfter: -1})
		w.UnixDial(unix.SOCK_STREAM, path)
		asleep(t, watcher)
		w.UnixDial(unix.SOCK_STREAM, path)
		awake(t, watcher, hold.Backlog)
	})
	t.Run("datagram", func(t *testing.T) {
		t.Parallel()
		w := sockets.New(t)
		path := filepath.Join(t.TempDir(), "s")
		watcher := watch(w, holdUnix(w, root, w.UnixBound(unix.SOCK_DGRAM, path)), hold.WakePolicy{MinBytes: 100})
		asleep(t, watcher)
		w.Write(w.UnixDial(unix.SOCK_DGRAM, path), "x")
		awake(t, watcher, hold.Datagram)
	})
	t.Run("peer credentials stay the app's", func(t *testing.T) {
		t.Parallel()
		w := sockets.New(t)
		path := filepath.Join(t.TempDir(), "s")
		set := holdUnix(w, root, w.UnixListen(unix.SOCK_STREAM, 2, path))
		before, err := unix.GetsockoptUcred(int(set.Sockets[0].File.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(set.Arm()))
		qt.Assert(t, qt.IsNil(set.Disarm()))
		after, err := unix.GetsockoptUcred(int(w.UnixDial(unix.SOCK_STREAM, path).Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.DeepEquals(after, before))
	})
}
