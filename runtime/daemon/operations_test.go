package daemon

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
)

// TestEachKindOfEventsIsNamedAlike has operations and their events be called the same.
func TestEachKindOfEventsIsNamedAlike(t *testing.T) {
	kinds := make(map[string]bool)
	for _, k := range event.Kinds() {
		kinds[string(k)] = true
	}
	for _, table := range Operations() {
		switch table.Name {
		case "save", "restack", "clone-request": // are told as what they are parts of, or consist of
		default:
			qt.Check(t, qt.IsTrue(kinds[table.Name]), qt.Commentf("%s", table.Name))
		}
	}
}

var update = flag.Bool("update", false, "write the tables of operations into the pages that have them")

// TestPagesHaveTheTables proves that the pages say what the tables of operations say.
func TestPagesHaveTheTables(t *testing.T) {
	for path, table := range map[string]string{
		"../../ARCHITECTURE.md":   journal.Crashes(Operations()),
		"../../testenv/POINTS.md": journal.List(Operations()),
	} {
		b, err := os.ReadFile(path)
		qt.Assert(t, qt.IsNil(err))
		head, _, _ := strings.Cut(table, "\n")
		before, rest, ok := strings.Cut(string(b), head+"\n")
		qt.Assert(t, qt.IsTrue(ok), qt.Commentf("%s has no table that begins with %s", path, head))
		_, after, _ := strings.Cut(rest, "\n\n")
		want := before + table
		if after != "" {
			want += "\n" + after
		}
		if *update {
			qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(want), 0o600)))
			continue
		}
		qt.Check(t, qt.Equals(string(b), want), qt.Commentf("write it again: go test ./runtime/daemon -update"))
	}
}
