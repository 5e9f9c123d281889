package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestTailOfALog(t *testing.T) {
	long := strings.Repeat("x", 70<<10) // longer than what is read at once
	for _, test := range []struct {
		log   string
		lines int64
		want  string
	}{
		{"one\ntwo\nthree\n", 0, "one\ntwo\nthree\n"},
		{"one\ntwo\nthree\n", 1, "three\n"},
		{"one\ntwo\nthree\n", 2, "two\nthree\n"},
		{"one\ntwo\nthree\n", 9, "one\ntwo\nthree\n"},
		{"one\ntwo", 1, "two"},
		{"one\n\n", 1, "\n"},
		{"", 3, ""},
		{"one\n" + long + "\n", 1, long + "\n"},
		{"one\n" + long + "\ntwo\n", 2, long + "\ntwo\n"},
	} {
		path := filepath.Join(t.TempDir(), "log")
		qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(test.log), 0o600)))
		f, err := os.Open(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(seekTail(f, test.lines)))
		var got strings.Builder
		qt.Assert(t, qt.IsNil(drain(f, func(b []byte) error { got.Write(b); return nil })))
		qt.Check(t, qt.Equals(got.String(), test.want), qt.Commentf("%d lines of %d bytes", test.lines, len(test.log)))
		qt.Assert(t, qt.IsNil(f.Close()))
	}
}
