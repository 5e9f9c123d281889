package journal_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/journal/journaltest"
)

type note struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
}

func TestFileIsReadAsWritten(t *testing.T) {
	for _, durable := range []journal.Keep{journal.UntilReboot, journal.Forever} {
		path := filepath.Join(t.TempDir(), "note.json")
		qt.Assert(t, qt.IsNil(journal.Write(path, note{"first", 1}, durable)))
		qt.Assert(t, qt.IsNil(journal.Write(path, note{"second", 2}, durable)))
		var got note
		qt.Assert(t, qt.IsNil(journal.Read(path, &got)))
		qt.Check(t, qt.Equals(got, note{"second", 2}))
		entries, err := os.ReadDir(filepath.Dir(path))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.HasLen(entries, 1)) // nothing is left beside it
		journaltest.FlipAll(t, path, func() (any, error) {
			var n note
			return n, journal.Read(path, &n)
		})
	}
}

func TestFileThatCanNotBeWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "note.json")
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(path, "in the way"), 0o700)))
	qt.Check(t, qt.ErrorMatches(journal.Write(path, note{}, journal.Forever), "write .*"))
	entries, err := os.ReadDir(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(entries, 1))
	qt.Check(t, qt.ErrorMatches(journal.Write(path, make(chan int), journal.Forever), "encode .*"))
}

func TestFileThatWasChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "note.json")
	var n note
	qt.Check(t, qt.ErrorIs(journal.Read(path, &n), fs.ErrNotExist))
	qt.Assert(t, qt.IsNil(journal.Write(path, note{"first", 1}, journal.UntilReboot)))
	b, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(strings.Replace(string(b), "first", "other", 1)), 0o600)))
	qt.Check(t, qt.ErrorIs(journal.Read(path, &n), journal.ErrSeal))
	// As the error says: without the digest it is read as it is.
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(`{"text": "other"}`), 0o600)))
	qt.Assert(t, qt.IsNil(journal.Read(path, &n)))
	qt.Check(t, qt.Equals(n.Text, "other"))
}
