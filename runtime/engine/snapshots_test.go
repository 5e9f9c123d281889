package engine_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
)

// An app that is saved goes on, also if that fails; then there is no snapshot, unless it was complete.
func TestSnapshotOfARunningApp(t *testing.T) {
	w := newWorld(t)
	a := w.Run("cache")
	was, _ := a.Read()
	for _, s := range table(t, "snapshot").Steps {
		_, err := w.Snapshot(w.Failing(string(table(t, "snapshot").Point(s.Name))), a, engine.SnapshotRequest{Name: s.Name})
		finished := table(t, "snapshot").IsCommitted(s.Name)
		qt.Check(t, qt.Equals(w.HasSnapshot(s.Name), finished), qt.Commentf("%s", s.Name))
		if finished {
			qt.Check(t, qt.IsNil(err))
		} else {
			qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		}
		w.IsRunning(a)
		now, _ := a.Read()
		qt.Check(t, qt.Equals(now.Process, was.Process))
	}
	m, err := w.Snapshot(t.Context(), a, engine.SnapshotRequest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(m.Name, "cache-1"))
	qt.Check(t, qt.Equals(m.Processes, 1))
	_, err = w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: "cache-1"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.IsRunning(a)

	_, err = w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: "last", Stop: true})
	qt.Assert(t, qt.IsNil(err))
	w.IsStopped(a)
	now, _ := a.Read()
	qt.Check(t, qt.Equals(now.Exit, "ended by snapshot last"))
	qt.Check(t, qt.HasLen(enginetest.Zombies(t), 0))
}

// An app without processes stays as it is when it is saved, and its files become a layer that it
// shares with the snapshot.
func TestSnapshotOfAnAppAtRest(t *testing.T) {
	w := newWorld(t)
	asleep, ended := w.Held("asleep", "/file"), w.Run("ended", "/file")
	qt.Assert(t, qt.IsNil(w.Engine.Stop(t.Context(), ended, unix.SIGTERM, enginetest.Patience)))
	is := func(a *engine.App) {
		t.Helper()
		if a == ended {
			w.IsStopped(a)
			return
		}
		w.IsHeld(a)
		w.IsWritten(a)
	}
	for _, a := range []*engine.App{asleep, ended} {
		name := a.Name()
		for _, point := range []string{"restack.begun", "save.begun", "save.written"} {
			_, err := w.Snapshot(w.Failing(point), a, engine.SnapshotRequest{Name: name})
			qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s of %s", point, name))
			qt.Check(t, qt.IsFalse(w.HasSnapshot(name)))
			is(a)
		}
		_, err := w.Snapshot(w.Failing("save.saved"), a, engine.SnapshotRequest{Name: name})
		qt.Check(t, qt.IsNil(err))
		is(a)
		m, err := w.Engine.Store.Dir(name).Manifest()
		qt.Assert(t, qt.IsNil(err))
		rec, _ := a.Read()
		qt.Check(t, qt.HasLen(m.Layers, 1))
		qt.Check(t, qt.Equals(m.Layers[0].ID, rec.Layers[0].ID))

		_, err = w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: name + "-again"})
		qt.Assert(t, qt.IsNil(err))
		again, _ := a.Read()
		qt.Check(t, qt.DeepEquals(again.Layers, rec.Layers)) // nothing new
	}
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), asleep)))
	w.IsRunning(asleep)
	w.IsWritten(asleep)
	_, err := w.Hibernate(t.Context(), asleep)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.Snapshot(t.Context(), asleep, engine.SnapshotRequest{Name: "last", Stop: true})
	qt.Assert(t, qt.IsNil(err))
	w.IsStopped(asleep)
}

// Once the files of an app are a layer the app has it below its own files, whatever fails.
func TestRestackIsFinished(t *testing.T) {
	w := newWorld(t)
	for _, step := range []string{"placed", "switched", "linked"} {
		a := w.Held(step, "/file")
		_, err := w.Snapshot(w.Failing("restack."+step), a, engine.SnapshotRequest{Name: step})
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected))
		w.IsHeld(a)
		rec, _ := a.Read()
		qt.Check(t, qt.HasLen(rec.Layers, 1))
		w.IsWritten(a)
	}
}

// Files that something may still change are copied into the snapshot, and stay the app's own.
func TestFilesInUseAreCopied(t *testing.T) {
	w := newWorld(t)
	watches := w.Held("watches", "/file", "watch") // it would be told of an unmount
	open := w.Held("open", "/file")
	f, err := os.Open(filepath.Join(open.Box.Root(), "file"))
	qt.Assert(t, qt.IsNil(err))
	for _, a := range []*engine.App{watches, open} {
		m, err := w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: a.Name()})
		qt.Assert(t, qt.IsNil(err))
		w.IsHeld(a)
		rec, _ := a.Read()
		qt.Check(t, qt.HasLen(rec.Layers, 0), qt.Commentf("%s", a.Name()))
		qt.Check(t, qt.IsNil(rec.Restacking))
		qt.Check(t, qt.HasLen(m.Layers, 1), qt.Commentf("%s", a.Name()))
		w.IsWritten(a)
	}
	qt.Check(t, qt.IsNil(f.Close()))
	qt.Check(t, qt.IsNil(w.Wake(t.Context(), open)))
	w.IsRunning(open)
}

// What is reserved for a snapshot decides whether it is taken.
func TestSnapshotThatIsNotReserved(t *testing.T) {
	w := newWorld(t)
	a := w.Run("cache")
	_, err := w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: "one", Reserved: func(context.Context) error { return fault.ErrInjected }})
	qt.Check(t, qt.ErrorIs(err, fault.ErrInjected))
	_, err = w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: "one"}) // its name is free
	qt.Check(t, qt.IsNil(err))
	w.IsRunning(a)
	qt.Check(t, qt.HasLen(w.Engine.Checker.SnapshotObstacles(t.Context(), "one", snapshot.ByDigest), 0))
	qt.Check(t, qt.HasLen(w.Engine.Checker.AppObstacles(t.Context(), a, snapshot.ByDigest), 0)) // it runs
	images := w.Engine.Store.Dir("one").Images()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, "processes"), []byte("other"), 0o600)))
	qt.Check(t, qt.HasLen(w.Engine.Checker.SnapshotObstacles(t.Context(), "one", snapshot.ByDigest), 1))
}

// What apps and snapshots need is known, and what none of them needs any more is swept.
func TestWhatIsNeeded(t *testing.T) {
	w := newWorld(t)
	a := w.Held("cache", "/file")
	_, err := w.Snapshot(t.Context(), a, engine.SnapshotRequest{Name: "one"})
	qt.Assert(t, qt.IsNil(err))
	_, err = w.Engine.Needed()
	qt.Check(t, qt.IsNil(err))
	rec, _ := a.Read()
	mounted := w.Engine.Mounted()
	qt.Assert(t, qt.HasLen(mounted, 1))
	qt.Check(t, qt.DeepEquals(mounted[0].Layers, rec.Layers))
	qt.Check(t, qt.Equals(rec.Status, app.Held))
	w.Engine.Start()
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), a)))
	qt.Assert(t, qt.IsNil(w.Engine.Remove(t.Context(), a, true)))
	qt.Assert(t, qt.IsNil(w.Engine.Store.Remove("one")))
	w.Until("its layers are swept", func() bool { return len(w.Names("state/layers")) == 0 })
}
