package tree_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// What a source that can't be trusted offers leads nowhere else.
func TestFillerRefuses(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	qt.Assert(t, qt.IsNil(os.Mkdir(outside, 0o755)))
	root := tree.Entry{Path: []byte("."), Mode: unix.S_IFDIR | 0o755}
	link := tree.Entry{Path: []byte("l"), Mode: unix.S_IFLNK | 0o777, Target: []byte(outside)}
	file := func(name string) tree.Entry { return tree.Entry{Path: []byte(name), Mode: unix.S_IFREG | 0o600} }
	for name, entries := range map[string][]tree.Entry{
		"through a link":    {root, link, file("l/x")},
		"up":                {root, file("../outside/x")},
		"absolute":          {root, file("/x")},
		"no directory":      {root, file("d/x")},
		"below a file":      {root, file("x"), file("x/y")},
		"twice":             {root, file("x"), file("x")},
		"the root twice":    {root, root},
		"no root":           {file("x")},
		"link to outside":   {root, {Path: []byte("x"), Mode: unix.S_IFREG, Other: []byte("../outside")}},
		"link to directory": {root, {Path: []byte("d"), Mode: unix.S_IFDIR | 0o700}, {Path: []byte("x"), Mode: unix.S_IFREG, Other: []byte("d")}},
		"link to itself":    {root, {Path: []byte("x"), Mode: unix.S_IFREG, Other: []byte("x")}},
		"mark as attribute": {root, {Path: []byte("x"), Mode: unix.S_IFREG, Content: tree.Content{Attributes: map[string][]byte{"trusted.overlay.redirect": []byte("/")}}}},
		"no type":           {root, {Path: []byte("x")}},
		"negative":          {root, {Path: []byte("x"), Mode: unix.S_IFREG, SizeBytes: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			f := tree.NewFiller(filepath.Join(t.TempDir(), "tree"))
			var err error
			for i := range entries {
				file, ferr := f.Make(&entries[i])
				if err = ferr; err != nil {
					break
				}
				err = f.Complete(&entries[i], file)
				qt.Assert(t, qt.IsNil(err))
			}
			qt.Check(t, qt.ErrorIs(err, tree.ErrDamaged))
			left, err := os.ReadDir(outside)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(left, 0))
		})
	}
}

// A name is any bytes, also in a description that is written as JSON.
func TestNamesOfAnyBytes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"caf\xe9", "\xff\xfe", "plain"} {
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, name), nil, 0o600)))
	}
	files, err := tree.Describe(t.Context(), dir)
	qt.Assert(t, qt.IsNil(err))
	b, err := json.Marshal(files)
	qt.Assert(t, qt.IsNil(err))
	var read []tree.File
	qt.Assert(t, qt.IsNil(json.Unmarshal(b, &read)))
	qt.Check(t, qt.DeepEquals(read, files))
	qt.Check(t, qt.IsNil(tree.Check(t.Context(), dir, read, memory.ByDigest)))
	qt.Check(t, qt.Equals(strings.Count(string(b), "path_bytes"), 2)) // others are written as ever
}
