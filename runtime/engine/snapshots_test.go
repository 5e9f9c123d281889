package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/template"
)

func TestARestoredAppKeepsItsMachineID(t *testing.T) {
	qt.Check(t, qt.Equals(sameAgain().MachineID, template.MachineIDKeep))
}

// snapshot saves an app under a name.
func (w *world) snapshot(ctx context.Context, a *App, req SnapshotRequest) (*snapshot.Manifest, error) {
	req.Op = w.operation(event.Snapshot)
	m, _, err := w.eng.TakeSnapshot(ctx, a, req)
	return m, err
}

// hasSnapshot tells whether there is a snapshot of a name. Nothing else may be left in its place.
func (w *world) hasSnapshot(name string) bool {
	w.t.Helper()
	for _, n := range w.names("state/snapshots") {
		qt.Check(w.t, qt.Not(qt.Equals(n[:1], ".")), qt.Commentf("%s", n)) // half written
	}
	_, _, err := w.eng.Store.Find(name)
	return err == nil
}

// An app that is saved goes on, also if that fails; then there is no snapshot, unless it was complete.
func TestSnapshotOfARunningApp(t *testing.T) {
	w := newWorld(t)
	a := w.run("cache")
	was, _ := a.Read()
	for _, s := range snapshotTable.Steps {
		_, err := w.snapshot(w.failing(string(snapshotTable.Point(s.Name))), a, SnapshotRequest{Name: s.Name})
		finished := snapshotTable.IsCommitted(s.Name)
		qt.Check(t, qt.Equals(w.hasSnapshot(s.Name), finished), qt.Commentf("%s", s.Name))
		if finished {
			qt.Check(t, qt.IsNil(err))
		} else {
			qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s", s.Name))
		}
		w.isRunning(a)
		now, _ := a.Read()
		qt.Check(t, qt.Equals(now.Process, was.Process))
	}
	m, err := w.snapshot(t.Context(), a, SnapshotRequest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(m.Name, "cache-1"))
	qt.Check(t, qt.Equals(m.Processes, 1))
	_, err = w.snapshot(t.Context(), a, SnapshotRequest{Name: "cache-1"})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	w.isRunning(a)

	_, err = w.snapshot(t.Context(), a, SnapshotRequest{Name: "last", Stop: true})
	qt.Assert(t, qt.IsNil(err))
	w.isStopped(a)
	now, _ := a.Read()
	qt.Check(t, qt.Equals(now.Exit, "ended by snapshot last"))
	qt.Check(t, qt.HasLen(zombies(t), 0))
}

// An app without processes stays as it is when it is saved, and its files become a layer that it
// shares with the snapshot.
func TestSnapshotOfAnAppAtRest(t *testing.T) {
	w := newWorld(t)
	asleep, ended := w.held("asleep", "/file"), w.run("ended", "/file")
	qt.Assert(t, qt.IsNil(w.eng.Stop(t.Context(), ended, unix.SIGTERM, patience)))
	is := func(a *App) {
		t.Helper()
		if a == ended {
			w.isStopped(a)
			return
		}
		w.isHeld(a)
		w.isWritten(a)
	}
	for _, a := range []*App{asleep, ended} {
		name := a.Name()
		for _, point := range []string{"restack.begun", "save.begun", "save.written"} {
			_, err := w.snapshot(w.failing(point), a, SnapshotRequest{Name: name})
			qt.Check(t, qt.ErrorIs(err, fault.ErrInjected), qt.Commentf("%s of %s", point, name))
			qt.Check(t, qt.IsFalse(w.hasSnapshot(name)))
			is(a)
		}
		_, err := w.snapshot(w.failing("save.saved"), a, SnapshotRequest{Name: name})
		qt.Check(t, qt.IsNil(err))
		is(a)
		m, err := w.eng.Store.Dir(name).Manifest()
		qt.Assert(t, qt.IsNil(err))
		rec, _ := a.Read()
		qt.Check(t, qt.HasLen(m.Layers, 1))
		qt.Check(t, qt.Equals(m.Layers[0].ID, rec.Layers[0].ID))

		_, err = w.snapshot(t.Context(), a, SnapshotRequest{Name: name + "-again"})
		qt.Assert(t, qt.IsNil(err))
		again, _ := a.Read()
		qt.Check(t, qt.DeepEquals(again.Layers, rec.Layers)) // nothing new
	}
	qt.Assert(t, qt.IsNil(w.wake(t.Context(), asleep)))
	w.isRunning(asleep)
	w.isWritten(asleep)
	_, err := w.hibernate(t.Context(), asleep)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.snapshot(t.Context(), asleep, SnapshotRequest{Name: "last", Stop: true})
	qt.Assert(t, qt.IsNil(err))
	w.isStopped(asleep)
}

// isWritten proves that the app sees the file that its program writes.
func (w *world) isWritten(a *App) {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.Box.Root(), "file"))
	qt.Check(w.t, qt.IsNil(err))
	qt.Check(w.t, qt.Equals(string(b), "written by the app"))
}

// Once the files of an app are a layer the app has it below its own files, whatever fails.
func TestRestackIsFinished(t *testing.T) {
	w := newWorld(t)
	for _, step := range []string{"placed", "switched", "linked"} {
		a := w.held(step, "/file")
		_, err := w.snapshot(w.failing("restack."+step), a, SnapshotRequest{Name: step})
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.ErrorIs(a.Noted(), fault.ErrInjected))
		w.isHeld(a)
		rec, _ := a.Read()
		qt.Check(t, qt.HasLen(rec.Layers, 1))
		w.isWritten(a)
	}
}

// Files that something may still change are copied into the snapshot, and stay the app's own.
func TestFilesInUseAreCopied(t *testing.T) {
	w := newWorld(t)
	watches := w.held("watches", "/file", "watch") // it would be told of an unmount
	open := w.held("open", "/file")
	f, err := os.Open(filepath.Join(open.Box.Root(), "file"))
	qt.Assert(t, qt.IsNil(err))
	for _, a := range []*App{watches, open} {
		m, err := w.snapshot(t.Context(), a, SnapshotRequest{Name: a.Name()})
		qt.Assert(t, qt.IsNil(err))
		w.isHeld(a)
		rec, _ := a.Read()
		qt.Check(t, qt.HasLen(rec.Layers, 0), qt.Commentf("%s", a.Name()))
		qt.Check(t, qt.IsNil(rec.Restacking))
		qt.Check(t, qt.HasLen(m.Layers, 1), qt.Commentf("%s", a.Name()))
		w.isWritten(a)
	}
	qt.Check(t, qt.IsNil(f.Close()))
	qt.Check(t, qt.IsNil(w.wake(t.Context(), open)))
	w.isRunning(open)
}

// What is reserved for a snapshot decides whether it is taken.
func TestSnapshotThatIsNotReserved(t *testing.T) {
	w := newWorld(t)
	a := w.run("cache")
	_, err := w.snapshot(t.Context(), a, SnapshotRequest{Name: "one", Reserved: func(context.Context) error { return fault.ErrInjected }})
	qt.Check(t, qt.ErrorIs(err, fault.ErrInjected))
	_, err = w.snapshot(t.Context(), a, SnapshotRequest{Name: "one"}) // its name is free
	qt.Check(t, qt.IsNil(err))
	w.isRunning(a)
	qt.Check(t, qt.HasLen(w.eng.Checker.SnapshotObstacles(t.Context(), "one", snapshot.ByDigest), 0))
	qt.Check(t, qt.HasLen(w.eng.Checker.AppObstacles(t.Context(), a, snapshot.ByDigest), 0)) // it runs
	images := w.eng.Store.Dir("one").Images()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, "processes"), []byte("other"), 0o600)))
	qt.Check(t, qt.HasLen(w.eng.Checker.SnapshotObstacles(t.Context(), "one", snapshot.ByDigest), 1))
	_, err = w.restore(t.Context(), "one", "broken")
	qt.Check(t, qt.ErrorMatches(err, "(?s).*damaged.*"))
	w.isGone("broken")
	qt.Check(t, qt.HasLen(zombies(t), 0))
}

// What apps and snapshots need is known, and what none of them needs any more is swept.
func TestWhatIsNeeded(t *testing.T) {
	w := newWorld(t)
	a := w.held("cache", "/file")
	_, err := w.snapshot(t.Context(), a, SnapshotRequest{Name: "one"})
	qt.Assert(t, qt.IsNil(err))
	_, err = w.eng.needed()
	qt.Check(t, qt.IsNil(err))
	rec, _ := a.Read()
	mounted := w.eng.mounted()
	qt.Assert(t, qt.HasLen(mounted, 1))
	qt.Check(t, qt.DeepEquals(mounted[0].Layers, rec.Layers))
	qt.Check(t, qt.Equals(rec.Status, app.Held))
	w.eng.Start()
	qt.Assert(t, qt.IsNil(w.wake(t.Context(), a)))
	qt.Assert(t, qt.IsNil(w.eng.Remove(t.Context(), a, true)))
	qt.Assert(t, qt.IsNil(w.eng.Store.Remove("one")))
	w.until("its layers are swept", func() bool { return len(w.names("state/layers")) == 0 })
}

// Until a restack has ended, the app's files may be in no layer that its record names. So it
// stays on record, though the snapshot that it is a part of has failed.
func TestAFailedSaveLeavesTheRestackOpen(t *testing.T) {
	eng := &Engine{log: slog.New(slog.DiscardHandler)}
	eng.kinds = eng.makeKinds()
	a := made(t, "cache", app.State{Status: app.Held})
	r, err := eng.begin(eng.kinds.save, a, nil)
	qt.Assert(t, qt.IsNil(err))
	stuck := errors.New("stuck")
	err = r.Do(t.Context(), func(context.Context) error {
		a.Amend(func(rec *app.Record) { rec.Restacking = &layer.Ref{} })
		if _, err := eng.kinds.restack.Begin(a, nil); err != nil {
			return err
		}
		return stuck
	})
	qt.Check(t, qt.ErrorIs(err, stuck))
	rec, _ := a.Read()
	qt.Check(t, qt.Equals(rec.Operation, journal.Entry{Kind: "restack", Step: "begun"}))

	r, err = eng.begin(eng.kinds.save, made(t, "web", app.State{Status: app.Held}), nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.ErrorIs(r.Do(t.Context(), func(context.Context) error { return stuck }), stuck))
	rec, _ = r.Subject.Read()
	qt.Check(t, qt.IsFalse(rec.Operation.Open()))
}
