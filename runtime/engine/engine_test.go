package engine

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
)

// named is an app of which there is a record and nothing else.
func named(t *testing.T, name string, state app.State) *App {
	t.Helper()
	return &App{App: app.New(filepath.Join(t.TempDir(), name), t.TempDir(), app.Record{Identity: app.Identity{Name: name}, State: state})}
}

// TestObstaclesOfASnapshot proves that what is in the way ends a snapshot with --stop, and is a
// note of another one.
func TestObstaclesOfASnapshot(t *testing.T) {
	gone := &restore.FileError{Path: "/srv/data", Reason: "it is gone", Remedy: "put it back"}
	a := named(t, "cache", app.State{})
	qt.Check(t, qt.ErrorIs((&SnapshotRequest{Stop: true}).atOnce(a, nil, gone), gone))
	qt.Check(t, qt.HasLen(a.Remarked(), 0))
	qt.Check(t, qt.IsNil((&SnapshotRequest{}).atOnce(a, nil, gone)))
	qt.Check(t, qt.DeepEquals(a.Remarked(), []app.Note{{Text: "no app could be made of the snapshot now: it is gone", Remedy: "put it back"}}))
	qt.Check(t, qt.IsNil((&SnapshotRequest{Stop: true}).atOnce(a, nil)))
}

func TestWhyAnAppIsAwake(t *testing.T) {
	a := named(t, "cache", app.State{Status: app.Running})
	qt.Check(t, qt.Equals(a.WhyAwake(), ""))
	a.SetAwake("somebody is connected")
	qt.Check(t, qt.Equals(a.WhyAwake(), "somebody is connected"))
	a.Amend(func(rec *app.Record) { rec.Status = app.Held })
	qt.Check(t, qt.Equals(a.WhyAwake(), ""))
}

func TestSessionsAreListed(t *testing.T) {
	a := named(t, "dev", app.State{Status: app.Running})
	qt.Check(t, qt.Equals(a.Attended(), ""))
	end := a.sessions.Begin(7, []string{"tmux", "attach"})
	other := a.sessions.Begin(8, []string{"top"})
	qt.Check(t, qt.IsTrue(strings.Contains(a.Attended(), `"tmux attach"`)), qt.Commentf("%s", a.Attended()))
	end()
	qt.Check(t, qt.HasLen(a.sessions.Now(), 1))
	other()
	qt.Check(t, qt.Equals(a.Attended(), ""))
}
