package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/go-quicktest/qt"
)

// testFS returns a dump in testdata, to be changed at will. The memory pages
// are not kept there, only their size: here they are zeros.
func testFS(tb testing.TB, name string) fstest.MapFS {
	tb.Helper()
	dir := filepath.Join("testdata", name)
	entries, err := os.ReadDir(dir)
	qt.Assert(tb, qt.IsNil(err))
	images := make(fstest.MapFS)
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		qt.Assert(tb, qt.IsNil(err))
		if entry.Name() != "pages.txt" {
			images[entry.Name()] = &fstest.MapFile{Data: data}
			continue
		}
		for line := range strings.Lines(string(data)) {
			var pages string
			var size int
			_, err := fmt.Sscan(line, &pages, &size)
			qt.Assert(tb, qt.IsNil(err))
			images[pages] = &fstest.MapFile{Data: make([]byte, size)}
		}
	}
	return images
}

// testDump is testFS in a directory.
func testDump(tb testing.TB, name string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, file := range testFS(tb, name) {
		path := filepath.Join(dir, name)
		data := file.Data
		if strings.HasPrefix(name, "pages-") {
			data = nil // holes are enough
		}
		qt.Assert(tb, qt.IsNil(os.WriteFile(path, data, 0o644)))
		qt.Assert(tb, qt.IsNil(os.Truncate(path, int64(len(file.Data)))))
	}
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
