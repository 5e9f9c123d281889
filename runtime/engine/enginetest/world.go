package enginetest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
)

// World is a bench of a test. Whatever is there at the end of the test is removed, and nothing may
// be left then.
type World struct {
	*Bench
	T *testing.T
	// Know is called with an engine that is to take up what an earlier one has left, for it to
	// know the operations of a room above; may be nil.
	Know func(*engine.Engine)
}

// Place is a world without apps whose bench is not open yet. It needs root.
func Place(t *testing.T) *World {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine-") //nolint:usetesting // a short name: sockets are in it
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(dir))) })
	return &World{T: t, Bench: &Bench{Dir: dir}}
}

// In is the world to a part of the test.
func (w *World) In(t *testing.T) *World {
	t.Helper()
	return &World{T: t, Bench: w.Bench}
}

// Open opens the bench, as a daemon does that is started: it takes up what an earlier one has left.
func (w *World) Open() {
	w.T.Helper()
	b, err := OpenBench(context.WithoutCancel(w.T.Context()), w.Dir)
	qt.Assert(w.T, qt.IsNil(err))
	if w.Engine == nil {
		w.T.Cleanup(w.end)
	}
	w.Bench = b
	if w.Know != nil {
		w.Know(b.Engine)
	}
	qt.Assert(w.T, qt.IsNil(b.Engine.Recover(w.T.Context())))
}

// App is an app that there is.
func (w *World) App(name string) *engine.App {
	w.T.Helper()
	a, err := w.Engine.Apps.Get(name)
	qt.Assert(w.T, qt.IsNil(err))
	return a
}

// end removes what is left, and proves that it is all there was.
func (w *World) end() {
	t, ctx := w.T, context.WithoutCancel(w.T.Context())
	t.Helper()
	for _, a := range w.Engine.Apps.List() {
		qt.Check(t, qt.IsNil(w.Engine.Remove(ctx, a, true)))
	}
	pid, tree := w.Engine.VEM.HolderPID(), w.Engine.Cgroups.Path()
	kept, err := w.Engine.VEM.Kept(ctx)
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(kept, 0))
	qt.Check(t, qt.IsNil(w.Close()))
	qt.Check(t, qt.IsNil(unix.Kill(pid, unix.SIGTERM)))
	_, err = unix.Wait4(pid, nil, 0, nil)
	qt.Check(t, qt.IsNil(err))
	_, err = os.Lstat(tree)
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist), qt.Commentf("its cgroups are left"))
	qt.Check(t, qt.HasLen(w.Mounts(), 0))
	for _, dir := range []string{"state/apps", "run/apps", "run/fabric"} {
		qt.Check(t, qt.HasLen(w.Names(dir), 0), qt.Commentf("%s", dir))
	}
	reapAll()
}

// Mounts are those below the directory of the bench.
func (w *World) Mounts() (list []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	qt.Assert(w.T, qt.IsNil(err))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], w.Dir+"/") {
			list = append(list, f[4])
		}
	}
	return list
}

// Names are the entries of a directory of the bench.
func (w *World) Names(dir string) (names []string) {
	entries, err := os.ReadDir(filepath.Join(w.Dir, dir))
	qt.Assert(w.T, qt.IsNil(err))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Failing is a context in which the steps of these points fail.
func (w *World) Failing(points ...string) context.Context {
	w.T.Helper()
	plan, err := fault.Parse(strings.Join(points, "=error,") + "=error")
	qt.Assert(w.T, qt.IsNil(err))
	return fault.With(w.T.Context(), plan)
}

// Run runs an app whose program is ready.
func (w *World) Run(name string, args ...string) *engine.App {
	w.T.Helper()
	a, err := w.Engine.Run(w.T.Context(), Record(name, args...))
	qt.Assert(w.T, qt.IsNil(err))
	w.IsReady(a)
	return a
}

// IsReady waits until the program of an app listens.
func (w *World) IsReady(a *engine.App) {
	w.T.Helper()
	w.Until("the program listens", func() bool { return Listens(a) })
}

// Until asks again until something is so.
func (w *World) Until(what string, is func() bool) {
	w.T.Helper()
	qt.Assert(w.T, qt.IsNil(Await(what, is)))
}

// Hibernate hibernates an app.
func (w *World) Hibernate(ctx context.Context, a *engine.App) (*engine.Outcome, error) {
	return w.Engine.Hibernate(ctx, a, engine.Sleep{}, w.Operation(event.Hibernate))
}

// Held is an app that is hibernated.
func (w *World) Held(name string, args ...string) *engine.App {
	w.T.Helper()
	a := w.Run(name, args...)
	_, err := w.Hibernate(w.T.Context(), a)
	qt.Assert(w.T, qt.IsNil(err))
	w.IsHeld(a)
	return a
}

// Wake wakes an app.
func (w *World) Wake(ctx context.Context, a *engine.App) error {
	_, err := w.Engine.Wake(ctx, a, engine.Awakening{By: app.ByCommand}, w.Operation(event.Wake))
	return err
}

// IsRunning proves that an app runs, and that nothing is held of it.
func (w *World) IsRunning(a *engine.App) {
	t := w.T
	t.Helper()
	rec := w.OnDisk(a)
	qt.Assert(t, qt.Equals(a.Status(), app.Running))
	proc := rec.Process.Open()
	qt.Assert(t, qt.IsNotNil(proc))
	qt.Check(t, qt.IsNil(proc.Close()))
	pids, err := a.Cgroup().PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.SliceContains(pids, rec.Process.PID))
	state, err := a.Cgroup().State()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(state.Frozen))
	qt.Check(t, qt.IsNil(a.Endpoint.Held()))
	qt.Check(t, qt.Equals(w.Kept(a), 0))
	_, err = os.Lstat(string(a.Hibernation()))
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
	w.IsReady(a)
	w.IsFree(a)
}

// IsHeld proves that an app is held: it has no process, and its sockets are with the holder.
func (w *World) IsHeld(a *engine.App) {
	t := w.T
	t.Helper()
	rec := w.OnDisk(a)
	qt.Assert(t, qt.Equals(a.Status(), app.Held))
	qt.Check(t, qt.Equals(rec.Process.PID, 0))
	pids, err := a.Cgroup().PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(pids, 0))
	qt.Assert(t, qt.IsNotNil(a.Endpoint.Held()))
	qt.Check(t, qt.IsTrue(w.Kept(a) > 0))
	_, err = a.Hibernation().Manifest()
	qt.Check(t, qt.IsNil(err))
	w.IsFree(a)
}

// IsStopped proves that an app has ended, and that nothing is left of it but its files.
func (w *World) IsStopped(a *engine.App) {
	t := w.T
	t.Helper()
	rec := w.OnDisk(a)
	qt.Assert(t, qt.Equals(a.Status(), app.Stopped))
	qt.Check(t, qt.Equals(rec.Process.PID, 0))
	qt.Check(t, qt.Not(qt.Equals(rec.Exit, "")))
	qt.Check(t, qt.Equals(w.Kept(a), 0))
	w.HasNoPlace(a)
	w.IsFree(a)
}

// IsGone proves that nothing is left of an app.
func (w *World) IsGone(name string) {
	t := w.T
	t.Helper()
	_, err := w.Engine.Apps.Get(name)
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.Not(qt.SliceContains(w.Names("state/apps"), name)))
	qt.Check(t, qt.Not(qt.SliceContains(w.Names("run/apps"), name)))
	_, err = os.Lstat(filepath.Join(w.Engine.Cgroups.Path(), name))
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
	for _, at := range w.Mounts() {
		qt.Check(t, qt.IsFalse(strings.Contains(at, "/"+name+"/")), qt.Commentf("%s", at))
	}
	for _, owner := range w.Engine.VEM.Owners("default") {
		qt.Check(t, qt.Not(qt.Equals(owner, name)))
	}
}

// HasNoPlace proves that an app has no mount, no cgroup and no namespace.
func (w *World) HasNoPlace(a *engine.App) {
	w.T.Helper()
	_, err := os.Lstat(a.Box.Cgroup().Path())
	qt.Check(w.T, qt.ErrorIs(err, fs.ErrNotExist))
	_, err = os.Lstat(a.Box.RunDir)
	qt.Check(w.T, qt.ErrorIs(err, fs.ErrNotExist))
}

// OnDisk is the app's record as a new daemon would find it. No operation is open in it.
func (w *World) OnDisk(a *engine.App) *app.Record {
	w.T.Helper()
	now, _ := a.Read()
	rec, err := app.Read(a.Dir())
	qt.Assert(w.T, qt.IsNil(err))
	qt.Check(w.T, qt.IsFalse(rec.Operation.Open()), qt.Commentf("%v", rec.Operation))
	qt.Check(w.T, qt.Equals(rec.Status, now.Status))
	qt.Check(w.T, qt.Equals(rec.Process, now.Process))
	return rec
}

// Kept is how many descriptors the holder has of an app.
func (w *World) Kept(a *engine.App) int {
	w.T.Helper()
	kept, err := w.Engine.VEM.Kept(w.T.Context())
	qt.Assert(w.T, qt.IsNil(err))
	return kept[a.Box.Name]
}

// IsFree proves that no operation has the app's turn, but for what follows the end of its process
// for a moment.
func (w *World) IsFree(a *engine.App) {
	w.T.Helper()
	w.Until("nothing is done to it", a.Free)
}

// Zombies are children of the test that have ended and that nobody has waited for.
func Zombies(t *testing.T) (list []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	qt.Assert(t, qt.IsNil(err))
	self := strconv.Itoa(os.Getpid())
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if f[0] == "Z" && f[1] == self {
			list = append(list, string(b))
		}
	}
	return list
}

// Snapshot saves an app under a name.
func (w *World) Snapshot(ctx context.Context, a *engine.App, req engine.SnapshotRequest) (*snapshot.Manifest, error) {
	req.Op = w.Operation(event.Snapshot)
	m, _, err := w.Engine.TakeSnapshot(ctx, a, req)
	return m, err
}

// HasSnapshot tells whether there is a snapshot of a name. Nothing else may be left in its place.
func (w *World) HasSnapshot(name string) bool {
	w.T.Helper()
	for _, n := range w.Names("state/snapshots") {
		qt.Check(w.T, qt.Not(qt.Equals(n[:1], ".")), qt.Commentf("%s", n)) // half written
	}
	_, _, err := w.Engine.Store.Find(name)
	return err == nil
}

// IsWritten proves that the app sees the file that its program writes.
func (w *World) IsWritten(a *engine.App) {
	w.T.Helper()
	b, err := os.ReadFile(filepath.Join(a.Box.Root(), "file"))
	qt.Check(w.T, qt.IsNil(err))
	qt.Check(w.T, qt.Equals(string(b), "written by the app"))
}
