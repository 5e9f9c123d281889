package engine

import (
	"regexp"
	"testing"

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
			early := commits && !(ends != "" && lastOf(table.Steps).Commits && !table.IsCommitted(before(table.Steps)))
			qt.Check(t, qt.IsTrue(k.Finish != nil || !early), qt.Commentf("it can't be finished"))
		})
	}
	// Once its processes may have run again an app is woken, and what wakes it is told.
	qt.Check(t, qt.IsFalse(wakeTable.IsCommitted("resuming")))
	qt.Check(t, qt.IsTrue(wakeTable.IsCommitted("restored")))
}

func lastOf(steps []journal.Step) journal.Step { return steps[len(steps)-1] }

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
