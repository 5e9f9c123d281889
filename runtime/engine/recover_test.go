package engine_test

import (
	"context"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/engine/enginetest"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// A new daemon takes the apps up as they are, and notices what has happened meanwhile.
func TestRecover(t *testing.T) {
	w := newWorld(t)
	runs, ends, stops := w.Run("runs"), w.Run("ends"), w.Run("stops")
	w.Held("sleeps")
	rec := enginetest.Record("unfinished")
	rec.Batch = "unfinished"
	_, err := w.Engine.Run(t.Context(), rec)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.Engine.Stop(t.Context(), stops, 15, enginetest.Patience)))
	was, _ := runs.Read()
	qt.Assert(t, qt.IsNil(w.Close()))
	qt.Assert(t, qt.IsNil(ends.Cgroup().Kill(t.Context())))
	w.Open()

	w.IsRunning(w.App("runs"))
	now, _ := w.App("runs").Read()
	qt.Check(t, qt.Equals(now.Process, was.Process))
	w.IsHeld(w.App("sleeps"))
	w.IsStopped(w.App("stops"))
	w.IsStopped(w.App("ends"))
	now, _ = w.App("ends").Read()
	qt.Check(t, qt.Equals(now.Exit, "ended while no snapctld ran"))
	w.IsGone("unfinished")
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), w.App("sleeps"))))
	w.IsRunning(w.App("sleeps"))
}

// A record that can't be read keeps no other app from its daemon, and nothing of its app is lost.
func TestRecoverWithADamagedRecord(t *testing.T) {
	w := newWorld(t)
	good, bad, gone := w.Held("good"), w.Held("bad"), w.Held("gone")
	qt.Assert(t, qt.IsNil(w.Close()))
	path := bad.Dir() + "/" + app.RecordFile
	right, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, right[:len(right)/2], 0o600)))
	lost := gone.Dir() + "/" + app.RecordFile
	qt.Assert(t, qt.IsNil(os.Rename(lost, lost+".aside")))
	w.Open()
	w.IsHeld(w.App("good"))
	_, err = w.Engine.Apps.Get("bad")
	qt.Check(t, qt.IsNotNil(err))
	qt.Check(t, qt.IsTrue(w.Kept(bad) > 0)) // its sockets are still its
	_, err = w.Engine.Needed()
	qt.Check(t, qt.ErrorMatches(err, "app bad: read record: .*")) // nobody knows: nothing is swept
	qt.Assert(t, qt.IsNil(w.Close()))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, right, 0o600)))
	qt.Assert(t, qt.IsNil(os.Rename(lost+".aside", lost)))
	w.Open()
	for _, name := range []string{good.Name(), "bad", "gone"} {
		w.IsHeld(w.App(name))
		qt.Check(t, qt.IsNil(w.Wake(t.Context(), w.App(name))))
		w.IsRunning(w.App(name))
	}
}

// An app whose sockets are with nobody any more is held all the same, says so, and wakes.
func TestRecoverWithoutSockets(t *testing.T) {
	w := newWorld(t)
	a := w.Held("cache")
	ctx := context.WithoutCancel(t.Context())
	qt.Assert(t, qt.IsNil(a.Endpoint.Release(ctx)))
	qt.Assert(t, qt.IsNil(w.Close()))
	w.Open()
	a = w.App("cache")
	qt.Check(t, qt.Equals(a.Status(), app.Held))
	qt.Check(t, qt.ErrorMatches(a.Noted(), "the sockets of app cache are lost: snapctld and its holder both ended meanwhile: .*"))
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), a)))
	w.IsRunning(a)
}

// What an older snapctl has left in the middle of an operation is ended as that of this one.
func TestRecoverOldRecords(t *testing.T) {
	w := newWorld(t)
	old := map[string]struct {
		app    *engine.App
		status app.Status // as it was written
		want   func(*engine.App)
	}{
		"hibernating":  {w.Run("hibernating"), app.Hibernating, w.IsRunning},
		"snapshotting": {w.Run("snapshotting"), app.Snapshotting, w.IsRunning},
		"waking":       {w.Held("waking"), app.Waking, w.IsHeld},
		"resuming":     {w.Held("resuming"), app.Resuming, w.IsHeld},
		"creating":     {w.Run("creating"), app.Creating, nil},
		"removing":     {w.Held("removing"), app.Removing, nil},
	}
	qt.Assert(t, qt.IsNil(w.Close()))
	for _, o := range old {
		rec, err := app.Read(o.app.Dir())
		qt.Assert(t, qt.IsNil(err))
		rec.Status = o.status
		qt.Assert(t, qt.IsNil(rec.Write(o.app.Dir(), journal.UntilReboot)))
	}
	w.Open()
	for name, o := range old {
		if o.want == nil {
			w.IsGone(name)
			continue
		}
		o.want(w.App(name))
	}
}

// What the holder has of an app that is gone is dropped.
func TestOrphansAreDropped(t *testing.T) {
	w := newWorld(t)
	a := w.Held("cache")
	qt.Assert(t, qt.IsNil(a.Endpoint.Detach(t.Context())))
	qt.Assert(t, qt.IsNil(w.Close()))
	qt.Assert(t, qt.IsNil(a.Box.Remove()))
	qt.Assert(t, qt.IsNil(app.RemoveDir(a.Dir())))
	w.Open()
	qt.Check(t, qt.Equals(w.Kept(a), 0))
	w.IsGone("cache")
}

// If it can't be known whether a hibernation was complete, nothing is removed, and the app is not
// run: it stays as it is until that is known.
func TestRecoverHibernationThatNobodyKnowsOf(t *testing.T) {
	w := newWorld(t)
	a := w.Held("cache")
	qt.Assert(t, qt.IsNil(w.Close()))
	rec, err := app.Read(a.Dir())
	qt.Assert(t, qt.IsNil(err))
	rec.Status, rec.Operation = app.Running, journal.Entry{Kind: "hibernate", Step: "begun", Doing: string(app.Hibernating)}
	qt.Assert(t, qt.IsNil(rec.Write(a.Dir(), journal.UntilReboot)))
	manifest := string(a.Hibernation()) + "/manifest.json"
	right, err := os.ReadFile(manifest)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(manifest, append(right, ' '), 0o600)))
	w.Open()
	a = w.App("cache")
	qt.Check(t, qt.Equals(a.Status(), app.Hibernating))
	qt.Check(t, qt.ErrorIs(a.Noted(), tree.ErrDamaged))
	qt.Check(t, qt.ErrorIs(w.Wake(t.Context(), a), tree.ErrDamaged))
	qt.Check(t, qt.IsTrue(w.Kept(a) > 0))
	qt.Assert(t, qt.IsNil(os.WriteFile(manifest, right, 0o600)))
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), a)))
	w.IsRunning(a)
}

// What is saved of an app that was to move need not have reached the disk: after another boot of the host it is
// stopped, as one that ran then.
func TestRecoverWhatWasToMove(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"crashed", "booted"} {
		_, err := w.Engine.Hibernate(t.Context(), w.Run(name), engine.Sleep{Moves: true}, w.Operation(event.Hibernate))
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Assert(t, qt.IsNil(w.Close()))
	booted := w.App("booted")
	rec, err := app.Read(booted.Dir())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(rec.Volatile && rec.Resume))
	rec.Boot = "an earlier one"
	qt.Assert(t, qt.IsNil(rec.Write(booted.Dir(), journal.UntilReboot)))
	w.Open()
	w.IsHeld(w.App("crashed"))
	w.IsStopped(w.App("booted"))
	now, _ := w.App("booted").Read()
	qt.Check(t, qt.Equals(now.Exit, "ended with the host's boot, while it was to move"))
	qt.Assert(t, qt.IsNil(w.Wake(t.Context(), w.App("crashed"))))
	now, _ = w.App("crashed").Read()
	qt.Check(t, qt.IsFalse(now.Volatile || now.Resume))
}
