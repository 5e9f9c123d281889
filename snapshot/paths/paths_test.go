package paths_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/paths"
)

// look looks at this process and returns what is said of files below a directory.
func look(t *testing.T, dir string) (*paths.Seen, []string) {
	t.Helper()
	seen, err := paths.Look(t.Context(), []int{os.Getpid()})
	qt.Assert(t, qt.IsNil(err))
	var said []string
	for _, e := range seen.Unsupported {
		qt.Assert(t, qt.Equals(e.PID, os.Getpid()))
		if strings.Contains(e.What, dir) {
			said = append(said, e.Error())
		}
	}
	return seen, said
}

func create(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { f.Close() })
}

func TestLook(t *testing.T) {
	tests := map[string]struct {
		open func(dir string) error
		say  string // nothing is said if it is empty
	}{
		"as it was": {func(string) error { return nil }, ""},
		"renamed": {func(dir string) error {
			return os.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "g"))
		}, ""},
		"directory renamed": {func(dir string) error {
			return os.Rename(dir, dir+"-new")
		}, ""},
		"removed": {func(dir string) error {
			return os.Remove(filepath.Join(dir, "f"))
		}, ""},
		"made again": {func(dir string) error {
			name := filepath.Join(dir, "f")
			if err := os.Remove(name); err != nil {
				return err
			}
			return os.WriteFile(name, nil, 0o600)
		}, ""},
		"one of two names removed": {func(dir string) error {
			name := filepath.Join(dir, "f")
			if err := os.Link(name, filepath.Join(dir, "g")); err != nil {
				return err
			}
			return os.Remove(name)
		}, ""},
		"the kernel's name for it is taken": {func(dir string) error {
			name := filepath.Join(dir, "f")
			if err := os.Link(name, filepath.Join(dir, "g")); err != nil {
				return err
			}
			if err := os.Remove(name); err != nil {
				return err
			}
			return os.WriteFile(name+" (deleted)", nil, 0o600)
		}, "whose name another file has now"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
			create(t, filepath.Join(dir, "f"))
			qt.Assert(t, qt.IsNil(tt.open(dir)))
			_, said := look(t, dir)
			if tt.say == "" {
				qt.Assert(t, qt.HasLen(said, 0))
				return
			}
			qt.Assert(t, qt.HasLen(said, 1))
			qt.Assert(t, qt.StringContains(said[0], "open as descriptor"))
			qt.Assert(t, qt.StringContains(said[0], tt.say))
		})
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	known, later := filepath.Join(dir, "known"), filepath.Join(dir, "later")
	create(t, known)
	seen, _ := look(t, dir)
	create(t, later)
	qt.Assert(t, qt.IsNil(os.Remove(known))) // nobody looks again at what was good
	var st unix.Statx_t
	qt.Assert(t, qt.IsNil(unix.Statx(unix.AT_FDCWD, later, 0, unix.STATX_MNT_ID, &st)))
	file := func(name string) openfile.Saved {
		return openfile.Saved{Name: name, Mount: int(st.Mnt_id), Mode: unix.S_IFREG | 0o600}
	}
	elsewhere, directory, external, removed := file(later), file(dir), file("file[1:2]"), file(later+"-gone")
	elsewhere.Mount, external.External, removed.Removed = 1<<30, true, true
	check := func(files ...openfile.Saved) error { return seen.Check(t.Context(), t.TempDir(), files) }
	qt.Assert(t, qt.IsNil(check(file(known), file(later), elsewhere, external, removed)))
	qt.Assert(t, qt.ErrorIs(check(file(later), file(later+"/4a5b")), paths.ErrElsewhere))
	qt.Assert(t, qt.ErrorMatches(check(directory), ".*"+dir+", is of another type now: .*"))
}
