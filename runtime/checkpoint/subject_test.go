package checkpoint

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// saved is an app whose directories are temporary ones, with these binds.
func saved(t *testing.T, mounts ...specs.Mount) *Subject {
	t.Helper()
	dir := t.TempDir()
	s := &Subject{Name: "app", Box: sandbox.New(sandbox.Config{
		Name: "app", RunDir: dir, StateDir: dir, Cgroups: &cgroup.Tree{}, Spec: &specs.Spec{Root: &specs.Root{Path: dir}, Mounts: mounts},
	})}
	qt.Assert(t, qt.IsNil(os.MkdirAll(s.work(), 0o700)))
	return s
}

// A process that is no child of the app's is of an exec session, with all that it has started.
func TestOutsiders(t *testing.T) {
	self, parent := os.Getpid(), os.Getppid()
	first, others := Outsiders(self, []int{self})
	qt.Check(t, qt.HasLen(first, 0))
	qt.Check(t, qt.HasLen(others, 0))
	first, others = Outsiders(-1, []int{self, parent})
	qt.Check(t, qt.DeepEquals(first, []int{parent}))
	qt.Check(t, qt.DeepEquals(others, []int{self}))

	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &Subject{PID: -1, Sessions: []Session{{PID: parent, Args: []string{"sh", "-i"}, Since: since}}}
	own, err := s.unattended([]int{self, parent})
	qt.Check(t, qt.HasLen(own, 0))
	qt.Check(t, qt.ErrorMatches(err, "process .* runs \"sh -i\" by `snapctl exec` since 2026-01-02T03:04:05Z, and can't be saved"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	s.Sessions = nil // of an earlier daemon
	_, err = s.unattended([]int{self, parent})
	qt.Check(t, qt.ErrorMatches(err, "process .* runs by `snapctl exec`, and can't be saved"))
	s.PID = self
	own, err = s.unattended([]int{self})
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(own, []int{self}))
}

func TestOneCRIUAtATime(t *testing.T) {
	s := saved(t)
	qt.Assert(t, qt.IsNil(s.AwaitCRIU(t.Context())), qt.Commentf("there was none"))
	g, err := openGuard(s)
	qt.Assert(t, qt.IsNil(err))
	_, err = openGuard(s)
	qt.Assert(t, qt.ErrorMatches(err, "lock app app: a CRIU process still works on it: .*"))

	cause := errors.New("no longer")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	qt.Assert(t, qt.ErrorIs(s.AwaitCRIU(ctx), context.Canceled))
	waited := make(chan error)
	go func() { waited <- s.AwaitCRIU(t.Context()) }()
	qt.Assert(t, qt.IsNil(g.Close()))
	qt.Assert(t, qt.IsNil(<-waited))
}

// A file of a bind is opened by its path in the app, and no link leads out of the bind.
func TestFilesOfBinds(t *testing.T) {
	outer, inner := t.TempDir(), t.TempDir()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(outer, "log"), []byte("outer"), 0o600)))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(inner, "log"), []byte("inner"), 0o600)))
	qt.Assert(t, qt.IsNil(os.Symlink(filepath.Join(outer, "log"), filepath.Join(inner, "out"))))
	s := saved(t, specs.Mount{Destination: "/data", Source: outer}, specs.Mount{Destination: "/data/sub", Source: inner},
		specs.Mount{Destination: "/one", Source: filepath.Join(outer, "log")})
	qt.Assert(t, qt.DeepEquals(bindsOf(s.Box.Spec), map[string]string{"/data": outer, "/data/sub": inner, "/one": filepath.Join(outer, "log")}))

	for name, want := range map[string]string{"/data/log": "ter", "/data/sub/log": "ner", "/one": "ter"} {
		f, err := s.openLent(snapshot.External{Path: name, Open: &snapshot.OpenFile{Flags: os.O_RDONLY, Position: 2}})
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", name))
		rest := make([]byte, 8)
		n, err := f.Read(rest)
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(rest[:n]), want))
		qt.Check(t, qt.IsNil(f.Close()))
	}
	for _, name := range []string{"/data/sub/out", "/data/../etc/passwd", "/database/log", "", "/etc/passwd"} {
		_, err := s.openLent(snapshot.External{Path: name, Open: &snapshot.OpenFile{}})
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%s", name))
	}
	opt := s.HoldOptions(nil, []string{"known"})
	qt.Assert(t, qt.HasLen(opt.Binds, 3))
	qt.Assert(t, qt.Equals(opt.Binds[1], collect.Bind{Inside: "/data/sub", Host: inner}))
}

// The other end of the stand-in for a unix socket is closed.
func TestStandIns(t *testing.T) {
	s := saved(t)
	kept := hold.NewSet([]hold.Socket{{Inode: 7, Kind: hold.Unix}})
	s.Held = kept
	m := &snapshot.Manifest{External: []snapshot.External{
		{Kind: snapshot.ExternalNet, Key: "net"},
		{Kind: snapshot.ExternalUnix, Key: "unix[7]", Inode: 7, SocketType: unix.SOCK_STREAM},
		{Kind: snapshot.ExternalUnix, Key: "unix[8]", Inode: 8, SocketType: unix.SOCK_STREAM},
	}}
	files, drop, err := s.sockets(m, t.TempDir())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(files, 2))
	qt.Assert(t, qt.Equals(files[0].Inode, 7))
	qt.Assert(t, qt.Equals(files[1].Inode, 8))
	n, err := unix.Read(int(files[1].File.Fd()), make([]byte, 1))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n, 0))
	drop()
	_, err = files[1].File.Stat()
	qt.Check(t, qt.ErrorIs(err, os.ErrClosed))

	m.External = append(m.External, snapshot.External{Kind: snapshot.ExternalFile, Key: "file[1:2]", Path: "/gone", Open: &snapshot.OpenFile{}})
	_, _, err = s.sockets(m, t.TempDir())
	qt.Check(t, qt.ErrorMatches(err, `replace file\[1:2\]: .*`))
}

func TestWhatIsHeld(t *testing.T) {
	qt.Assert(t, qt.HasLen((&Subject{}).heldFiles(), 0))
	set := heldObjects(t)
	files := (&Subject{Held: set}).heldFiles()
	qt.Assert(t, qt.HasLen(files, 4))
	qt.Assert(t, qt.Equals(files[0].At, image.DescriptorRef{PID: 1, FD: 3}))

	list := lossy(set)
	var kinds []snapshot.ExternalKind
	for _, e := range list {
		kinds = append(kinds, e.Kind)
	}
	qt.Assert(t, qt.DeepEquals(kinds, []snapshot.ExternalKind{snapshot.ExternalEventfd, snapshot.ExternalFile}))
	qt.Assert(t, qt.Equals(list[0].Key, "eventfd[1:3]"))
	qt.Assert(t, qt.Equals(list[1].Open.Position, 7))

	qt.Assert(t, qt.IsNil(unannounced(set, []string{"file[2:5]", "other"})))
	err := unannounced(set, []string{"other"})
	qt.Assert(t, qt.ErrorIs(err, ErrChanged))
	qt.Assert(t, qt.ErrorMatches(err, `file\[2:5\] was opened meanwhile: .*`))
}

// heldObjects are a counting eventfd, another one, a file and an inotify instance.
func heldObjects(t *testing.T) *hold.Set {
	t.Helper()
	set := hold.NewSet(nil)
	set.Objects = []hold.Object{
		{Kind: hold.Eventfd, Number: 1, Owners: []hold.Descriptor{{PID: 1, FD: 3}}, Semaphore: true},
		{Kind: hold.Eventfd, Number: 2, Owners: []hold.Descriptor{{PID: 1, FD: 4}}},
		{Kind: hold.File, Number: 3, Owners: []hold.Descriptor{{PID: 1, FD: 5}}, External: "file[2:5]", Lent: &hold.Lent{Path: "/data/log", Position: 7}},
		{Kind: hold.Inotify, Number: 4, Owners: []hold.Descriptor{{PID: 1, FD: 6}}},
	}
	return set
}

func TestMovedSockets(t *testing.T) {
	qt.Assert(t, qt.DeepEquals(externalMoved([]collect.Moved{{Inode: 0x1f, Path: "/run/s"}}), []snapshot.External{
		{Kind: snapshot.ExternalMoved, Key: "moved[1f]", Inode: 0x1f, Path: "/run/s"},
	}))
}

func TestNamesOfQueues(t *testing.T) {
	q := externalQueue(hold.Queue{Name: "/jobs", Inode: 0x2a, Messages: 10})
	qt.Assert(t, qt.Equals(q.Key, "mqueue[2a]"))
	qt.Assert(t, qt.Equals(queueName(q.Queue), "jobs"))
	q.Queue.Unlinked = true
	qt.Assert(t, qt.Equals(queueName(q.Queue), "snapctl-unlinked-2a"))
	qt.Assert(t, qt.IsNil((&Subject{}).restoreQueues(&snapshot.Manifest{External: []snapshot.External{{Kind: snapshot.ExternalNet}}})))
}

func TestLogAmongExternals(t *testing.T) {
	qt.Assert(t, qt.Equals(logKey([]snapshot.External{{Kind: snapshot.ExternalNet, Key: "net"}, {Kind: snapshot.ExternalLog, Key: "file[1:2]"}}), "file[1:2]"))
	qt.Assert(t, qt.Equals(logKey(nil), ""))
}

// A lock that somebody has is waited for until ctx ends, and told once.
func TestAwaitLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { f.Close() })
		return f
	}
	locks := []restore.Lock{{Lock: openfile.Lock{Kind: openfile.LockFlock, Write: true}, Path: "/data/db", File: open()}}
	var told []string
	tell := func(what string) { told = append(told, what) }
	qt.Assert(t, qt.IsNil(awaitLocks(t.Context(), locks, tell)))
	qt.Assert(t, qt.HasLen(told, 0))

	other := open()
	qt.Assert(t, qt.IsNil(unix.Flock(int(other.Fd()), unix.LOCK_EX)))
	ctx, cancel := context.WithCancel(t.Context())
	err := awaitLocks(ctx, locks, func(what string) { tell(what); cancel() })
	taken, ok := errors.AsType[*restore.LockedError](err)
	qt.Assert(t, qt.IsTrue(ok))
	qt.Assert(t, qt.Equals(taken.Path, "/data/db"))
	qt.Assert(t, qt.DeepEquals(told, []string{"wait for lock on /data/db"}))

	guarded, quit := (&Subject{}).guardLocks(t.Context(), nil)
	quit()
	qt.Assert(t, qt.IsNil(guarded.Err()))
	guarded, quit = saved(t).guardLocks(t.Context(), locks)
	quit()
	qt.Assert(t, qt.ErrorIs(guarded.Err(), context.Canceled))
}

func TestFreshDev(t *testing.T) {
	s := saved(t)
	_, err := s.FreshDev()
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	qt.Assert(t, qt.IsNil(os.MkdirAll(s.Box.Shm(), 0o700)))
	fresh, err := s.FreshDev()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(fresh))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(s.Box.Shm(), "queue"), nil, 0o600)))
	fresh, err = s.FreshDev()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsFalse(fresh))
}

// tools has empty stores.
func tools(t *testing.T) *Tools {
	t.Helper()
	dir := t.TempDir()
	layers, err := layer.Open(filepath.Join(dir, "layers"))
	qt.Assert(t, qt.IsNil(err))
	files, err := hostfile.Open(filepath.Join(dir, "files"))
	qt.Assert(t, qt.IsNil(err))
	store, err := memory.Open(filepath.Join(dir, "memory"))
	qt.Assert(t, qt.IsNil(err))
	return &Tools{Layers: layers, HostFiles: files, Memory: store}
}

func TestObstacles(t *testing.T) {
	tools, from := tools(t), snapshot.Dir(t.TempDir())
	m := &snapshot.Manifest{Content: snapshot.Content{Files: []tree.File{{Path: "images/core-1.img", SizeBytes: 4}}}}
	gone := &specs.Spec{Root: &specs.Root{Path: filepath.Join(t.TempDir(), "gone")}}
	errs := tools.Obstacles(t.Context(), restore.Options{Snapshot: from, Manifest: m}, gone, nil, snapshot.BySize)
	qt.Assert(t, qt.HasLen(errs, 1), qt.Commentf("and nothing of what is in the directory"))
	qt.Assert(t, qt.ErrorMatches(errs[0], "the directory .* with the app's files is not there: put it back"))

	there := &specs.Spec{Root: &specs.Root{Path: t.TempDir()}}
	layers := []layer.Ref{{ID: "0123456789012345678901234567890123456789012345678901234567890123"}}
	errs = tools.Obstacles(t.Context(), restore.Options{Snapshot: from, Manifest: m}, there, layers, snapshot.BySize)
	qt.Assert(t, qt.HasLen(errs, 2), qt.Commentf("an image and a layer"))
	qt.Assert(t, qt.ErrorIs(errs[0], tree.ErrDamaged))
}

func TestNoLimitsToRaise(t *testing.T) {
	for _, linux := range []*specs.Linux{nil, {}, {Resources: &specs.LinuxResources{}}} {
		s := saved(t)
		s.Box.Spec.Linux = linux
		tighten, err := (&Tools{}).makeRoom(s)
		qt.Assert(t, qt.IsNil(err))
		tighten()
	}
}

func TestNarrowWithoutHold(t *testing.T) {
	qt.Assert(t, qt.IsNil((&Tools{}).Narrow(t.Context(), &Subject{})))
}

// What of the host the app's processes use is found where the app has it.
func TestHostPlace(t *testing.T) {
	s := saved(t, specs.Mount{Destination: "/data", Source: "/srv"})
	tools := tools(t)
	s.Layers = []layer.Ref{{ID: "ab"}}
	place := tools.hostPlace(s)
	qt.Assert(t, qt.DeepEquals(place.Own, []string{s.Box.Upper(), tools.Layers.Path("ab")}))
	qt.Assert(t, qt.Equals(place.Binds["/data"], "/srv"))
	own := &hostFiles{own: make(map[memory.ID]bool)}
	own.take(hostfile.File{ID: "x", Own: true}, hostfile.File{ID: "y"})
	qt.Assert(t, qt.DeepEquals(own.own, map[memory.ID]bool{"x": true}))
}
