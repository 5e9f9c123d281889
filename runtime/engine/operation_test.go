package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
)

func lasts(s string) bool {
	switch app.Status(s) { //nolint:exhaustive // the others do not last
	case app.Running, app.Held, app.Stopped, app.Pooled:
		return true
	}
	return false
}

// TestTables proves that what the tables say can be.
func TestTables(t *testing.T) {
	var eng Engine
	kinds := eng.makeKinds()
	tables := Operations()
	qt.Check(t, qt.HasLen(kinds.byName, len(tables)))
	name := regexp.MustCompile("^[a-z-]+$")
	for _, table := range tables {
		t.Run(table.Name, func(t *testing.T) {
			k := kinds.byName[table.Name]
			qt.Assert(t, qt.IsNotNil(k))
			qt.Check(t, qt.IsTrue(table.Doing == "" || app.Status(table.Doing).Known()))
			for _, from := range table.From {
				qt.Check(t, qt.IsTrue(from == "" || lasts(from)), qt.Commentf("%q", from))
			}
			seen := make(map[string]bool)
			ends, commits := "", false
			for _, s := range table.Steps {
				qt.Check(t, qt.IsTrue(name.MatchString(s.Name)), qt.Commentf("%q", s.Name))
				qt.Check(t, qt.IsFalse(seen[s.Name]), qt.Commentf("%q stands twice", s.Name))
				seen[s.Name] = true
				qt.Check(t, qt.Not(qt.Equals(s.Means, "")), qt.Commentf("%q", s.Name))
				qt.Check(t, qt.IsTrue(s.Doing == "" || app.Status(s.Doing).Known()))
				qt.Check(t, qt.IsTrue(s.Ends == "" || s.Ends == journal.Same || lasts(s.Ends)), qt.Commentf("%q ends as %q", s.Name, s.Ends))
				if s.Ends != "" {
					qt.Check(t, qt.Equals(ends, ""), qt.Commentf("it ends twice"))
					ends = s.Ends
				} else if ends != "" {
					qt.Check(t, qt.Equals(s.Keep, journal.Nothing), qt.Commentf("%q is after the end", s.Name))
				}
				commits = commits || s.Commits
			}
			qt.Check(t, qt.Equals(table.Steps[0].Name, "begun"))
			qt.Check(t, qt.IsTrue(k.Undo != nil || table.Steps[0].Commits), qt.Commentf("it can't be undone"))
			// What is committed before its end is on record can be found half done.
			early := commits && (ends == "" || table.IsCommitted(before(table.Steps)))
			qt.Check(t, qt.IsTrue(k.Finish != nil || !early), qt.Commentf("it can't be finished"))
		})
	}
	// Once its processes may have run again an app is woken, and what wakes it is told.
	qt.Check(t, qt.IsFalse(wakeTable.IsCommitted("resuming")))
	qt.Check(t, qt.IsTrue(wakeTable.IsCommitted("restored")))
}

// before is the last step but one.
func before(steps []journal.Step) string {
	if len(steps) < 2 {
		return ""
	}
	return steps[len(steps)-2].Name
}

// TestEachKindOfEventsIsNamedAlike has operations and their events be called the same.
func TestEachKindOfEventsIsNamedAlike(t *testing.T) {
	kinds := make(map[string]bool)
	for _, k := range event.Kinds() {
		kinds[string(k)] = true
	}
	for _, table := range Operations() {
		if table.Name != "save" && table.Name != "restack" { // are parts of a snapshot
			qt.Check(t, qt.IsTrue(kinds[table.Name]), qt.Commentf("%s", table.Name))
		}
	}
}

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
	release, err := eng.turn(t.Context(), a, "paint")
	qt.Assert(t, qt.IsNil(err))
	r, err := eng.begin(k, a, nil)
	qt.Assert(t, qt.IsNil(err))
	err = r.Do(t.Context(), func(context.Context) error { return errors.New("out of paint") })
	release()
	qt.Check(t, qt.ErrorMatches(err, "(?s)out of paint.*stuck"))
	qt.Check(t, qt.Equals(a.Status(), app.Snapshotting)) // as it is

	release, err = eng.turn(t.Context(), a, "hibernate")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(*undone, 2))
	qt.Check(t, qt.Equals(a.Status(), app.Running))
	release()

	left := made(t, "web", app.State{Status: app.Running, Operation: journal.Entry{Kind: "gild", Step: "begun"}})
	_, err = eng.turn(t.Context(), left, "hibernate")
	qt.Check(t, qt.ErrorMatches(err, "app web is in the middle of an operation that this snapctld does not know: gild"))
	_, free := left.TryTake("test")
	qt.Check(t, qt.IsTrue(free))
}

func TestNothingIsDoneToAnAppThatIsGone(t *testing.T) {
	eng, _, undone := paint(nil)
	a := made(t, "cache", app.State{Status: app.Running, Operation: journal.Entry{Kind: "paint", Step: "begun"}})
	eng.Apps.Add(a)
	eng.Apps.Remove(a)
	_, err := eng.turn(t.Context(), a, "wake")
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
