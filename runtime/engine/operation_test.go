package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/layer"
)

// made is an app with a directory, in which its record is.
func made(t *testing.T, name string, state app.State) *App {
	t.Helper()
	a := named(t, name, state)
	qt.Assert(t, qt.IsNil(os.MkdirAll(a.Dir(), 0o700)))
	qt.Assert(t, qt.IsNil(a.Change(func(*app.Record) {})))
	return a
}

// paint is an operation that this package does not have, on an engine that knows it.
func paint(undo error) (*Engine, *Kind, *int) {
	undone := 0
	k := &Kind{
		Table: journal.Table{
			Name: "paint", Doing: string(app.Snapshotting), Done: "painted", From: []string{string(app.Running)},
			Steps: []journal.Step{{Name: "begun", Keep: journal.UntilReboot}, {Name: "recorded", Keep: journal.Forever, Ends: journal.Same, Commits: true}},
		},
		Log: slog.New(slog.DiscardHandler),
	}
	k.Undo = func(_ context.Context, r *Run) error {
		undone++
		if undo != nil && undone == 1 {
			return undo
		}
		return r.Close()
	}
	return &Engine{kinds: kinds{byName: map[string]*Kind{"paint": k}}}, k, &undone
}

func TestOperationsBeginByStatus(t *testing.T) {
	eng, k, _ := paint(nil)
	_, err := eng.begin(k, made(t, "cache", app.State{Status: app.Held}), nil)
	qt.Check(t, qt.DeepEquals(err, error(&app.StatusError{App: "cache", Status: app.Held, Done: "painted"})))
	qt.Check(t, qt.ErrorMatches(err, "app cache is held: it can't be painted"))
	a := made(t, "cache", app.State{Status: app.Running})
	r, err := eng.begin(k, a, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a.Status(), app.Snapshotting))
	qt.Assert(t, qt.IsNil(r.Do(t.Context(), func(ctx context.Context) error { return r.At(ctx, "recorded") })))
	qt.Check(t, qt.Equals(a.Status(), app.Running))
}

// What could not be undone is undone before anything else is done to the app.
func TestWhatIsLeftOpenEndsFirst(t *testing.T) {
	stuck := errors.New("stuck")
	eng, k, undone := paint(stuck)
	a := made(t, "cache", app.State{Status: app.Running})
	release, err := eng.Turn(t.Context(), a, "paint")
	qt.Assert(t, qt.IsNil(err))
	r, err := eng.begin(k, a, nil)
	qt.Assert(t, qt.IsNil(err))
	err = r.Do(t.Context(), func(context.Context) error { return errors.New("out of paint") })
	release()
	qt.Check(t, qt.ErrorMatches(err, "(?s)out of paint.*stuck"))
	qt.Check(t, qt.Equals(a.Status(), app.Snapshotting)) // as it is

	release, err = eng.Turn(t.Context(), a, "hibernate")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(*undone, 2))
	qt.Check(t, qt.Equals(a.Status(), app.Running))
	release()

	left := made(t, "web", app.State{Status: app.Running, Operation: journal.Entry{Kind: "gild", Step: "begun"}})
	_, err = eng.Turn(t.Context(), left, "hibernate")
	qt.Check(t, qt.ErrorMatches(err, "app web is in the middle of an operation that this snapctld does not know: gild"))
	_, free := left.TryTake("test")
	qt.Check(t, qt.IsTrue(free))
}

func TestNothingIsDoneToAnAppThatIsGone(t *testing.T) {
	eng, _, undone := paint(nil)
	a := made(t, "cache", app.State{Status: app.Running, Operation: journal.Entry{Kind: "paint", Step: "begun"}})
	eng.Apps.Add(a)
	eng.Apps.Remove(a)
	_, err := eng.Turn(t.Context(), a, "wake")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	qt.Check(t, qt.Equals(*undone, 0))
	_, free := a.TryTake("test")
	qt.Check(t, qt.IsTrue(free))
}

// What can't be done to an app is refused by its status, before anything of it is looked at.
func TestStatusIsLookedAtFirst(t *testing.T) {
	eng := &Engine{log: slog.New(slog.DiscardHandler)}
	eng.kinds = eng.makeKinds()
	stopped := made(t, "cache", app.State{Status: app.Stopped})
	_, err := eng.Hibernate(t.Context(), stopped, Sleep{}, nil)
	qt.Check(t, qt.ErrorMatches(err, "app cache is stopped: it can't be hibernated"))
	_, err = eng.Wake(t.Context(), stopped, Awakening{}, nil)
	qt.Check(t, qt.ErrorMatches(err, "app cache is stopped: it can't be woken"))
	_, _, err = eng.TakeSnapshot(t.Context(), made(t, "_pool-1", app.State{Status: app.Pooled}), SnapshotRequest{})
	qt.Check(t, qt.ErrorMatches(err, "app _pool-1 is pooled: it can't be saved"))
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
