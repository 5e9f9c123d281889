package enginetest

import (
	"regexp"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/journal"
)

// lasts tells whether a status does.
func lasts(s string) bool {
	switch app.Status(s) { //nolint:exhaustive // the others do not last
	case app.Running, app.Held, app.Stopped, app.Pooled:
		return true
	}
	return false
}

var tableName = regexp.MustCompile("^[a-z-]+$")

// CheckKind proves that what the table of a kind of operations says can be, and that the kind undoes
// and finishes what it has to by its table.
func CheckKind(t *testing.T, k *engine.Kind) {
	t.Helper()
	qt.Assert(t, qt.IsNotNil(k))
	table := k.Table
	qt.Check(t, qt.IsTrue(table.Doing == "" || app.Status(table.Doing).Known()))
	for _, from := range table.From {
		qt.Check(t, qt.IsTrue(from == "" || lasts(from)), qt.Commentf("%q", from))
	}
	seen := make(map[string]bool)
	ends, commits := "", false
	for _, s := range table.Steps {
		qt.Check(t, qt.IsTrue(tableName.MatchString(s.Name)), qt.Commentf("%q", s.Name))
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
}

// before is the last step but one.
func before(steps []journal.Step) string {
	if len(steps) < 2 {
		return ""
	}
	return steps[len(steps)-2].Name
}
