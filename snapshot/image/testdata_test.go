package image

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

// dump returns a private copy of a dump in testdata. The memory pages are not
// kept there, only their size: here they are holes.
func dump(tb testing.TB, name string) string {
	tb.Helper()
	dir := tb.TempDir()
	qt.Assert(tb, qt.IsNil(os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name)))))
	list := filepath.Join(dir, "pages.txt")
	f, err := os.Open(list)
	qt.Assert(tb, qt.IsNil(err))
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var pages string
		var size int64
		_, err := fmt.Sscan(lines.Text(), &pages, &size)
		qt.Assert(tb, qt.IsNil(err))
		qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(dir, pages), nil, 0o644)))
		qt.Assert(tb, qt.IsNil(os.Truncate(filepath.Join(dir, pages), size)))
	}
	qt.Assert(tb, qt.IsNil(lines.Err()))
	qt.Assert(tb, qt.IsNil(os.Remove(list)))
	return dir
}

// dumps lists the dumps in testdata.
func dumps(tb testing.TB) []string {
	tb.Helper()
	entries, err := os.ReadDir("testdata")
	qt.Assert(tb, qt.IsNil(err))
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && entry.Name() != "fuzz" {
			names = append(names, entry.Name())
		}
	}
	qt.Assert(tb, qt.Not(qt.HasLen(names, 0)))
	return names
}

// eachImage calls fn for every image of every dump in testdata.
func eachImage(tb testing.TB, fn func(name string, data []byte)) {
	tb.Helper()
	for _, name := range dumps(tb) {
		dir := filepath.Join("testdata", name)
		entries, err := os.ReadDir(dir)
		qt.Assert(tb, qt.IsNil(err))
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), ".txt") {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			qt.Assert(tb, qt.IsNil(err))
			fn(filepath.Join(name, entry.Name()), data)
		}
	}
}
