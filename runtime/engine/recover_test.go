package engine

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// A new daemon finishes or undoes what a killed one has left, as the table of each operation says.
func TestRecoverAtEachPoint(t *testing.T) {
	w := newPlace(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "doomed", w.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	said, err := bufio.NewReader(out).ReadString('\n')
	kerr := cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	w.open()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(kerr))
	qt.Assert(t, qt.Equals(said, "doomed\n"))
	for _, d := range dooms() {
		t.Run(d.name, func(t *testing.T) {
			one := &world{bench: w.bench, t: t}
			one.isRecovered(d, d.table.IsCommitted(d.step))
		})
	}
}

// isRecovered proves that the operation has been finished, or was undone.
func (w *world) isRecovered(d doom, finished bool) {
	t := w.t
	a, err := w.eng.Apps.Get(d.name)
	status := map[string][2]app.Status{ // undone, finished
		"run": {"", app.Running}, "restore": {"", app.Running}, "clone": {"", app.Running}, "hand-out": {"", app.Running},
		"fill-pool": {}, "remove": {},
		"hibernate": {app.Running, app.Held}, "wake": {app.Held, app.Running}, "snapshot": {app.Running, app.Running},
		"save": {app.Held, app.Held}, "restack": {app.Held, app.Held},
	}[d.table.Name]
	want := status[0]
	if finished {
		want = status[1]
	}
	switch want { //nolint:exhaustive // see above
	case "":
		w.isGone(d.name)
		w.isGone("_pool-" + d.name)
		return
	case app.Running:
		qt.Assert(t, qt.IsNil(err))
		w.isRunning(a)
	case app.Held:
		qt.Assert(t, qt.IsNil(err))
		w.isHeld(a)
	}
	rec, _ := a.Read()
	switch d.table.Name {
	case "snapshot", "save":
		_, _, err := w.eng.Store.Find(d.name)
		qt.Check(t, qt.Equals(err == nil, finished), qt.Commentf("%v", err))
	case "restack":
		_, _, err := w.eng.Store.Find(d.name)
		qt.Check(t, qt.IsNotNil(err))
		qt.Check(t, qt.Equals(len(rec.Layers) == 1, finished), qt.Commentf("%v", rec.Layers))
		qt.Check(t, qt.IsNil(rec.Restacking))
		b, err := os.ReadFile(a.Box.Root() + "/file")
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(b), "written by the app"))
	}
	if want == app.Held && (d.table.Name == "hibernate" || d.table.Name == "wake") { // and it wakes
		qt.Check(t, qt.IsNil(w.wake(t.Context(), a)))
		w.isRunning(a)
	}
}

// A new daemon takes the apps up as they are, and notices what has happened meanwhile.
func TestRecover(t *testing.T) {
	w := newWorld(t)
	runs, ends, stops := w.run("runs"), w.run("ends"), w.run("stops")
	w.held("sleeps")
	rec := record("unfinished")
	rec.Batch = "unfinished"
	_, err := w.eng.Run(t.Context(), rec)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.eng.Stop(t.Context(), stops, 15, patience)))
	was, _ := runs.Read()
	qt.Assert(t, qt.IsNil(w.close()))
	qt.Assert(t, qt.IsNil(ends.Cgroup().Kill(t.Context())))
	w.open()

	w.isRunning(w.app("runs"))
	now, _ := w.app("runs").Read()
	qt.Check(t, qt.Equals(now.Process, was.Process))
	w.isHeld(w.app("sleeps"))
	w.isStopped(w.app("stops"))
	w.isStopped(w.app("ends"))
	now, _ = w.app("ends").Read()
	qt.Check(t, qt.Equals(now.Exit, "ended while no snapctld ran"))
	w.isGone("unfinished")
	qt.Assert(t, qt.IsNil(w.wake(t.Context(), w.app("sleeps"))))
	w.isRunning(w.app("sleeps"))
}

// A record that can't be read keeps no other app from its daemon, and nothing of its app is lost.
func TestRecoverWithADamagedRecord(t *testing.T) {
	w := newWorld(t)
	good, bad, gone := w.held("good"), w.held("bad"), w.held("gone")
	qt.Assert(t, qt.IsNil(w.close()))
	path := bad.Dir() + "/" + app.RecordFile
	right, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, right[:len(right)/2], 0o600)))
	lost := gone.Dir() + "/" + app.RecordFile
	qt.Assert(t, qt.IsNil(os.Rename(lost, lost+".aside")))
	w.open()
	w.isHeld(w.app("good"))
	_, err = w.eng.Apps.Get("bad")
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.IsTrue(w.kept(bad) > 0)) // its sockets are still its
	_, err = w.eng.needed()
	qt.Check(t, qt.ErrorMatches(err, "app bad: read record: .*")) // nobody knows: nothing is swept
	qt.Assert(t, qt.IsNil(w.close()))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, right, 0o600)))
	qt.Assert(t, qt.IsNil(os.Rename(lost+".aside", lost)))
	w.open()
	for _, name := range []string{good.Name(), "bad", "gone"} {
		w.isHeld(w.app(name))
		qt.Check(t, qt.IsNil(w.wake(t.Context(), w.app(name))))
		w.isRunning(w.app(name))
	}
}

// An app whose sockets are with nobody any more is held all the same, says so, and wakes.
func TestRecoverWithoutSockets(t *testing.T) {
	w := newWorld(t)
	a := w.held("cache")
	ctx := context.WithoutCancel(t.Context())
	qt.Assert(t, qt.IsNil(a.Endpoint.Release(ctx)))
	qt.Assert(t, qt.IsNil(w.close()))
	w.open()
	a = w.app("cache")
	qt.Check(t, qt.Equals(a.Status(), app.Held))
	qt.Check(t, qt.ErrorMatches(a.Noted(), "the sockets of app cache are lost: snapctld and its holder both ended meanwhile: .*"))
	qt.Assert(t, qt.IsNil(w.wake(t.Context(), a)))
	w.isRunning(a)
}

// What an older snapctl has left in the middle of an operation is ended as that of this one.
func TestRecoverOldRecords(t *testing.T) {
	w := newWorld(t)
	old := map[string]struct {
		app    *App
		status app.Status // as it was written
		want   func(*App)
	}{
		"hibernating":  {w.run("hibernating"), app.Hibernating, w.isRunning},
		"snapshotting": {w.run("snapshotting"), app.Snapshotting, w.isRunning},
		"waking":       {w.held("waking"), app.Waking, w.isHeld},
		"resuming":     {w.held("resuming"), app.Resuming, w.isHeld},
		"creating":     {w.run("creating"), app.Creating, nil},
		"removing":     {w.held("removing"), app.Removing, nil},
	}
	qt.Assert(t, qt.IsNil(w.close()))
	for _, o := range old {
		rec, err := app.Read(o.app.Dir())
		qt.Assert(t, qt.IsNil(err))
		rec.Status = o.status
		qt.Assert(t, qt.IsNil(rec.Write(o.app.Dir(), journal.UntilReboot)))
	}
	w.open()
	for name, o := range old {
		if o.want == nil {
			w.isGone(name)
			continue
		}
		o.want(w.app(name))
	}
}

// What the holder has of an app that is gone is dropped.
func TestOrphansAreDropped(t *testing.T) {
	w := newWorld(t)
	a := w.held("cache")
	qt.Assert(t, qt.IsNil(a.detach(t.Context())))
	qt.Assert(t, qt.IsNil(w.close()))
	qt.Assert(t, qt.IsNil(a.Box.Remove()))
	qt.Assert(t, qt.IsNil(app.RemoveDir(a.Dir())))
	w.open()
	qt.Check(t, qt.Equals(w.kept(a), 0))
	w.isGone("cache")
}

// If it can't be known whether a hibernation was complete, nothing is removed, and the app is not
// run: it stays as it is until that is known.
func TestRecoverHibernationThatNobodyKnowsOf(t *testing.T) {
	w := newWorld(t)
	a := w.held("cache")
	qt.Assert(t, qt.IsNil(w.close()))
	rec, err := app.Read(a.Dir())
	qt.Assert(t, qt.IsNil(err))
	rec.Status, rec.Operation = app.Running, journal.Entry{Kind: "hibernate", Step: "begun", Doing: string(app.Hibernating)}
	qt.Assert(t, qt.IsNil(rec.Write(a.Dir(), journal.UntilReboot)))
	manifest := string(a.Hibernation()) + "/manifest.json"
	right, err := os.ReadFile(manifest)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(manifest, append(right, ' '), 0o600)))
	w.open()
	a = w.app("cache")
	qt.Check(t, qt.Equals(a.Status(), app.Hibernating))
	qt.Check(t, qt.ErrorIs(a.Noted(), tree.ErrDamaged))
	qt.Check(t, qt.ErrorIs(w.wake(t.Context(), a), tree.ErrDamaged))
	qt.Check(t, qt.IsTrue(w.kept(a) > 0))
	qt.Assert(t, qt.IsNil(os.WriteFile(manifest, right, 0o600)))
	qt.Assert(t, qt.IsNil(w.wake(t.Context(), a)))
	w.isRunning(a)
}
