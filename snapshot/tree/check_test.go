package tree

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/testenv"
)

// write makes files, with the directories that they are in.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Dir(p), 0o755)))
		qt.Assert(t, qt.IsNil(os.WriteFile(p, []byte(content), 0o644)))
	}
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		change func(dir string) error
		except []string
		err    string // "" is as described
	}{
		"nothing":             {change: func(string) error { return nil }},
		"a file's bytes":      {change: func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/x"), []byte("Y"), 0o644) }, err: ".*: d/x: its content changed"},
		"a file's size":       {change: func(dir string) error { return os.Truncate(filepath.Join(dir, "d/x"), 7) }, err: ".*: d/x: type, mode, size .*"},
		"a file's mode":       {change: func(dir string) error { return os.Chmod(filepath.Join(dir, "d/x"), 0o600) }, err: ".*: d/x: type, mode, size .*"},
		"a file fewer":        {change: func(dir string) error { return os.Remove(filepath.Join(dir, "d/x")) }, err: ".*: d/x: missing"},
		"a file more":         {change: func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) }, err: ".*: new: not part of it"},
		"a file that may be":  {change: func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) }, except: []string{"new"}},
		"its name but deeper": {change: func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/new"), nil, 0o600) }, except: []string{"new"}, err: ".*: d/new: not part of it"},
		"where a link leads": {
			change: func(dir string) error {
				l := filepath.Join(dir, "link")
				if err := os.Remove(l); err != nil {
					return err
				}
				return os.Symlink("elsewhere", l)
			},
			err: ".*: link: its content changed",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"d/x": "x", "left-out": "z"})
			qt.Assert(t, qt.IsNil(os.Symlink("d/x", filepath.Join(dir, "link"))))
			files, err := Describe(t.Context(), dir, "left-out")
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.HasLen(files, 3)) // d, d/x, link
			qt.Assert(t, qt.IsNil(tt.change(dir)))
			err = Check(t.Context(), dir, files, memory.ByStamp, append(tt.except, "left-out")...)
			if tt.err == "" {
				qt.Assert(t, qt.IsNil(err))
				return
			}
			qt.Assert(t, qt.ErrorIs(err, ErrDamaged))
			qt.Assert(t, qt.ErrorMatches(err, tt.err))
		})
	}
}

// TestCheckKnowsOldDescriptions: the marks of directories were not described once, as a
// description without a stamp shows.
func TestCheckKnowsOldDescriptions(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	write(t, dir, map[string]string{"d/x": "x"})
	qt.Assert(t, qt.IsNil(Marks{Opaque: true}.Set(filepath.Join(dir, "d"))))
	files, err := Describe(t.Context(), dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(files[0].Type == "dir" && files[0].Opaque))
	qt.Assert(t, qt.IsNil(Check(t.Context(), dir, files, memory.ByDigest)))
	files[0].Opaque = false
	qt.Assert(t, qt.ErrorIs(Check(t.Context(), dir, files, memory.ByDigest), ErrDamaged))
	files[0].Stamp = ""
	qt.Assert(t, qt.IsNil(Check(t.Context(), dir, files, memory.ByDigest)))
}

// TestReadFileReadsFilesAlone: nobody is made to wait for a FIFO, or led elsewhere.
func TestReadFileReadsFilesAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"file": "content"})
	b, err := ReadFile(filepath.Join(dir, "file"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), "content"))
	qt.Assert(t, qt.IsNil(os.Symlink("file", filepath.Join(dir, "link"))))
	qt.Assert(t, qt.IsNil(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600)))
	for _, name := range []string{"link", "fifo", ".", "missing"} {
		_, err := ReadFile(filepath.Join(dir, name))
		qt.Check(t, qt.IsNotNil(err), qt.Commentf("%s", name))
	}
}
