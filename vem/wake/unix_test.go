package wake_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/wake"
)

// TestWatchUnix wakes on traffic of unix sockets.
func TestWatchUnix(t *testing.T) {
	root := collect.Options{HostPaths: []string{"/"}}
	holdUnix := func(w *sockets.World, opt collect.Options, files ...*os.File) *hold.Set {
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
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), wake.Policy{SilentAfter: -1})
			sockets.Close(t, w.UnixDial(kind, path))
			client := w.UnixDial(kind, path)
			asleep(t, watcher)
			w.Write(client, "hello")
			awake(t, watcher, wake.Data)
		})
		t.Run("silent client/"+name, func(t *testing.T) {
			t.Parallel()
			const patience = 400 * time.Millisecond
			w := sockets.New(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), wake.Policy{SilentAfter: patience})
			sockets.Close(t, w.UnixDial(kind, path))
			asleepFor(t, watcher, 2*patience)
			w.UnixDial(kind, path)
			awake(t, watcher, wake.Silent)
		})
		t.Run("host's client/"+name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), wake.Policy{SilentAfter: -1})
			client := w.Connect(w.Here(unix.AF_UNIX, kind, 0), path)
			asleep(t, watcher)
			w.Write(client, "hello")
			awake(t, watcher, wake.Data)
		})
		t.Run("another app's client/"+name, func(t *testing.T) {
			t.Parallel()
			w, other := sockets.New(t), sockets.New(t)
			path := filepath.Join(t.TempDir(), "s")
			watcher := watch(w, holdUnix(w, root, w.UnixListen(kind, 5, path)), wake.Policy{SilentAfter: -1})
			other.UnixDial(kind, path)
			awake(t, watcher, wake.Connect) // nobody can see what it sends
		})
		t.Run("connection/"+name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			var a, b *os.File
			w.Do(func() { a, b = w.Pair(kind) })
			watcher := watch(w, holdUnix(w, collect.Options{}, a), wake.Policy{MinBytes: 3})
			w.Write(b, "12")
			asleep(t, watcher)
			w.Write(b, "345")
			awake(t, watcher, wake.Data)
		})
		t.Run("close/"+name, func(t *testing.T) {
			t.Parallel()
			w := sockets.New(t)
			var a, b *os.File
			w.Do(func() { a, b = w.Pair(kind) })
			set := holdUnix(w, collect.Options{}, a)
			onData, onConnect := watch(w, set, wake.Policy{}), watch(w, set, wake.Policy{Mode: wake.OnConnect})
			sockets.Close(t, b)
			asleep(t, onData)
			awake(t, onConnect, wake.Closed)
		})
	}
	t.Run("full queue", func(t *testing.T) {
		t.Parallel()
		w := sockets.New(t)
		path := filepath.Join(t.TempDir(), "s")
		set := holdUnix(w, root, w.UnixListen(unix.SOCK_STREAM, 2, path))
		qt.Assert(t, qt.IsNil(set.Arm())) // does not change unix listeners
		watcher := watch(w, set, wake.Policy{SilentAfter: -1})
		w.UnixDial(unix.SOCK_STREAM, path)
		asleep(t, watcher)
		w.UnixDial(unix.SOCK_STREAM, path)
		awake(t, watcher, wake.Backlog)
	})
	t.Run("datagram", func(t *testing.T) {
		t.Parallel()
		w := sockets.New(t)
		path := filepath.Join(t.TempDir(), "s")
		watcher := watch(w, holdUnix(w, root, w.UnixBound(unix.SOCK_DGRAM, path)), wake.Policy{MinBytes: 100})
		asleep(t, watcher)
		w.Write(w.UnixDial(unix.SOCK_DGRAM, path), "x")
		awake(t, watcher, wake.Datagram)
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
