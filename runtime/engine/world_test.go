package engine

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
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
)

// world is a bench of a test.
type world struct {
	*bench
	t *testing.T
}

// newWorld is a bench without apps. Whatever is there at the end of the test is removed, and
// nothing may be left then.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := newPlace(t)
	w.open()
	return w
}

// newPlace is a world whose bench is not open yet.
func newPlace(t *testing.T) *world {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir, err := os.MkdirTemp("", "engine-") //nolint:usetesting // a short name: sockets are in it
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(os.RemoveAll(dir))) })
	return &world{t: t, bench: &bench{dir: dir}}
}

// open opens the bench, as a daemon does that is started: it takes up what an earlier one has left.
func (w *world) open() {
	w.t.Helper()
	b, err := openBench(context.WithoutCancel(w.t.Context()), w.dir)
	qt.Assert(w.t, qt.IsNil(err))
	if w.eng == nil {
		w.t.Cleanup(w.end)
	}
	w.bench = b
	qt.Assert(w.t, qt.IsNil(b.eng.Recover(w.t.Context())))
}

// app is an app that there is.
func (w *world) app(name string) *App {
	w.t.Helper()
	a, err := w.eng.Apps.Get(name)
	qt.Assert(w.t, qt.IsNil(err))
	return a
}

// end removes what is left, and proves that it is all there was.
func (w *world) end() {
	t, ctx := w.t, context.WithoutCancel(w.t.Context())
	t.Helper()
	for _, a := range w.eng.Apps.List() {
		qt.Check(t, qt.IsNil(w.eng.Remove(ctx, a, true)))
	}
	pid, tree := w.eng.VEM.HolderPID(), w.eng.Cgroups.Path()
	kept, err := w.eng.VEM.Kept(ctx)
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(kept, 0))
	qt.Check(t, qt.IsNil(w.close()))
	qt.Check(t, qt.IsNil(unix.Kill(pid, unix.SIGTERM)))
	_, err = unix.Wait4(pid, nil, 0, nil)
	qt.Check(t, qt.IsNil(err))
	_, err = os.Lstat(tree)
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist), qt.Commentf("its cgroups are left"))
	qt.Check(t, qt.HasLen(w.mounts(), 0))
	for _, dir := range []string{"state/apps", "run/apps", "run/fabric"} {
		qt.Check(t, qt.HasLen(w.names(dir), 0), qt.Commentf("%s", dir))
	}
	reapAll()
}

// mounts are those below the directory of the bench.
func (w *world) mounts() (list []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	qt.Assert(w.t, qt.IsNil(err))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], w.dir+"/") {
			list = append(list, f[4])
		}
	}
	return list
}

// names are the entries of a directory of the bench.
func (w *world) names(dir string) (names []string) {
	entries, err := os.ReadDir(filepath.Join(w.dir, dir))
	qt.Assert(w.t, qt.IsNil(err))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// failing is a context in which the steps of these points fail.
func (w *world) failing(points ...string) context.Context {
	w.t.Helper()
	plan, err := fault.Parse(strings.Join(points, "=error,") + "=error")
	qt.Assert(w.t, qt.IsNil(err))
	return fault.With(w.t.Context(), plan)
}

// run runs an app whose program is ready.
func (w *world) run(name string, args ...string) *App {
	w.t.Helper()
	a, err := w.eng.Run(w.t.Context(), record(name, args...))
	qt.Assert(w.t, qt.IsNil(err))
	w.isReady(a)
	return a
}

// isReady waits until the program of an app listens.
func (w *world) isReady(a *App) {
	w.t.Helper()
	w.until("the program listens", func() bool { return listens(a) })
}

// until asks again until something is so.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(await(what, is)))
}

// hibernate hibernates an app.
func (w *world) hibernate(ctx context.Context, a *App) (*Outcome, error) {
	return w.eng.Hibernate(ctx, a, Sleep{}, w.operation(event.Hibernate))
}

// held is an app that is hibernated.
func (w *world) held(name string, args ...string) *App {
	w.t.Helper()
	a := w.run(name, args...)
	_, err := w.hibernate(w.t.Context(), a)
	qt.Assert(w.t, qt.IsNil(err))
	w.isHeld(a)
	return a
}

func (w *world) wake(ctx context.Context, a *App) error {
	_, err := w.eng.Wake(ctx, a, Awakening{By: app.ByCommand}, w.operation(event.Wake))
	return err
}

// isRunning proves that an app runs, and that nothing is held of it.
func (w *world) isRunning(a *App) {
	t := w.t
	t.Helper()
	rec := w.onDisk(a)
	qt.Assert(t, qt.Equals(a.Status(), app.Running))
	qt.Check(t, qt.IsTrue(openAlive(rec.Process)))
	pids, err := a.Cgroup().PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.SliceContains(pids, rec.Process.PID))
	state, err := a.Cgroup().State()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(state.Frozen))
	qt.Check(t, qt.IsNil(a.Endpoint.Held()))
	qt.Check(t, qt.Equals(w.kept(a), 0))
	_, err = os.Lstat(string(a.Hibernation()))
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
	w.isReady(a)
	w.isFree(a)
}

// isHeld proves that an app is held: it has no process, and its sockets are with the holder.
func (w *world) isHeld(a *App) {
	t := w.t
	t.Helper()
	rec := w.onDisk(a)
	qt.Assert(t, qt.Equals(a.Status(), app.Held))
	qt.Check(t, qt.Equals(rec.Process.PID, 0))
	pids, err := a.Cgroup().PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(pids, 0))
	qt.Assert(t, qt.IsNotNil(a.Endpoint.Held()))
	qt.Check(t, qt.IsTrue(w.kept(a) > 0))
	_, err = a.Hibernation().Manifest()
	qt.Check(t, qt.IsNil(err))
	w.isFree(a)
}

// isStopped proves that an app has ended, and that nothing is left of it but its files.
func (w *world) isStopped(a *App) {
	t := w.t
	t.Helper()
	rec := w.onDisk(a)
	qt.Assert(t, qt.Equals(a.Status(), app.Stopped))
	qt.Check(t, qt.Equals(rec.Process.PID, 0))
	qt.Check(t, qt.Not(qt.Equals(rec.Exit, "")))
	qt.Check(t, qt.Equals(w.kept(a), 0))
	w.hasNoPlace(a)
	w.isFree(a)
}

// isGone proves that nothing is left of an app.
func (w *world) isGone(name string) {
	t := w.t
	t.Helper()
	_, err := w.eng.Apps.Get(name)
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.Not(qt.SliceContains(w.names("state/apps"), name)))
	qt.Check(t, qt.Not(qt.SliceContains(w.names("run/apps"), name)))
	_, err = os.Lstat(filepath.Join(w.eng.Cgroups.Path(), name))
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
	for _, at := range w.mounts() {
		qt.Check(t, qt.IsFalse(strings.Contains(at, "/"+name+"/")), qt.Commentf("%s", at))
	}
	for _, owner := range w.eng.VEM.Owners("default") {
		qt.Check(t, qt.Not(qt.Equals(owner, name)))
	}
}

// hasNoPlace proves that an app has no mount, no cgroup and no namespace.
func (w *world) hasNoPlace(a *App) {
	w.t.Helper()
	_, err := os.Lstat(a.Box.Cgroup().Path())
	qt.Check(w.t, qt.ErrorIs(err, fs.ErrNotExist))
	_, err = os.Lstat(a.Box.RunDir)
	qt.Check(w.t, qt.ErrorIs(err, fs.ErrNotExist))
}

// onDisk is the app's record as a new daemon would find it. No operation is open in it.
func (w *world) onDisk(a *App) *app.Record {
	w.t.Helper()
	now, _ := a.Read()
	rec, err := app.Read(a.Dir())
	qt.Assert(w.t, qt.IsNil(err))
	qt.Check(w.t, qt.IsFalse(rec.Operation.Open()), qt.Commentf("%v", rec.Operation))
	qt.Check(w.t, qt.Equals(rec.Status, now.Status))
	qt.Check(w.t, qt.Equals(rec.Process, now.Process))
	return rec
}

// kept is how many descriptors the holder has of an app.
func (w *world) kept(a *App) int {
	w.t.Helper()
	kept, err := w.eng.VEM.Kept(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	return kept[a.Box.Name]
}

// isFree proves that no operation has the app's turn, but for what follows the end of its process
// for a moment.
func (w *world) isFree(a *App) {
	w.t.Helper()
	w.until("nothing is done to it", a.Free)
}

// zombies are children of the test that have ended and that nobody has waited for.
func zombies(t *testing.T) (list []string) {
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
