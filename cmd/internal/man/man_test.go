package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	qt.Assert(t, qt.IsNil(write(dir)))
	for page, text := range map[string]string{
		"snapctl.1": "Exit codes", "snapctl-run.1": "hibernate-after", "snapctl-vem-table.1": "snapctl vem table",
	} {
		b, err := os.ReadFile(filepath.Join(dir, page))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.StringContains(strings.ReplaceAll(string(b), `\-`, "-"), text), qt.Commentf("%s", page))
	}
}
