package hostfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/testenv"
)

// settled waits until the clock has moved on so far that the file's change time is to be
// trusted: it can't be set.
func settled(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		var st unix.Stat_t
		qt.Assert(t, qt.IsNil(unix.Stat(path, &st)))
		if trustworthy(&st) {
			return
		}
	}
}

// host is a lower root with one file in it, and a store beside it.
func host(t *testing.T, content string) (s *Store, p Place, w Wanted) {
	t.Helper()
	dir := t.TempDir()
	p = Place{Root: filepath.Join(dir, "root"), Lower: filepath.Join(dir, "lower"), Own: []string{filepath.Join(dir, "upper")}}
	w = Wanted{Path: "/usr/lib/libv.so", Source: filepath.Join(p.Lower, "usr/lib/libv.so")}
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Dir(w.Source), 0o755)))
	qt.Assert(t, qt.IsNil(os.WriteFile(w.Source, []byte(content), 0o750)))
	s, err := Open(filepath.Join(dir, "files"))
	qt.Assert(t, qt.IsNil(err))
	settled(t, w.Source)
	return s, p, w
}

func sweep(t *testing.T, s *Store, needed ...File) (left int) {
	t.Helper()
	_, err := s.Sweep(func() (map[memory.ID]bool, error) {
		ids := make(map[memory.ID]bool)
		for _, f := range needed {
			ids[f.ID] = true
		}
		return ids, nil
	})
	qt.Assert(t, qt.IsNil(err))
	entries, err := os.ReadDir(s.path)
	qt.Assert(t, qt.IsNil(err))
	return len(entries)
}

func TestKeep(t *testing.T) {
	testenv.Need(t, testenv.Root)
	s, _, w := host(t, "code")
	f, err := s.Keep(t.Context(), w)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(f.SizeBytes, 4))
	qt.Assert(t, qt.Equals(f.Mode, unix.S_IFREG|0o750))
	qt.Assert(t, qt.IsTrue(f.Stamp != ""))
	for _, depth := range []memory.Depth{memory.ByStamp, memory.ByDigest} {
		qt.Assert(t, qt.IsNil(s.Check(t.Context(), &f, depth)))
	}
	// Once more: the same copy. Whoever has it pinned, it goes when nobody has.
	again, err := s.Keep(t.Context(), w)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(f.Own))
	qt.Assert(t, qt.IsFalse(again.Own)) // it was kept before
	again.Own = true
	qt.Assert(t, qt.Equals(again, f))
	s.Unpin([]File{f})
	qt.Assert(t, qt.Equals(sweep(t, s), 1))
	s.Unpin([]File{f})
	qt.Assert(t, qt.Equals(sweep(t, s, f), 1))
	qt.Assert(t, qt.Equals(sweep(t, s), 0))
	// What was swept is made anew, though the file is known.
	f, err = s.Keep(t.Context(), w)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(s.Check(t.Context(), &f, memory.ByDigest)))
}

// A process that gets the copy sees it at its path, with its bytes, and can't write to it.
func TestOpenFile(t *testing.T) {
	testenv.Need(t, testenv.Root)
	s, _, w := host(t, "code")
	f, err := s.Keep(t.Context(), w)
	qt.Assert(t, qt.IsNil(err))
	file, err := s.OpenFile(&f)
	qt.Assert(t, qt.IsNil(err))
	defer file.Close()
	link := fmt.Sprintf("/proc/self/fd/%d", file.Fd())
	name, err := os.Readlink(link)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(name, w.Path))
	b, err := io.ReadAll(file)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), "code"))
	_, err = os.OpenFile(link, os.O_RDWR, 0)
	qt.Assert(t, qt.ErrorIs(err, unix.EROFS))
	names, err := s.Names([]int{os.Getpid()}, []File{f})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(names, 1))
}

// TestChanged changes a file in the ways that an ordinary day has.
func TestChanged(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for name, test := range map[string]struct {
		change            func(path string) error
		changed, restored bool
	}{
		"nothing":           {func(string) error { return nil }, false, true},
		"read":              {func(path string) error { _, err := os.ReadFile(path); return err }, false, true},
		"written in place":  {func(path string) error { return os.WriteFile(path, []byte("wode"), 0) }, true, false},
		"grown":             {func(path string) error { return os.WriteFile(path, []byte("codes"), 0) }, true, false},
		"chmod":             {func(path string) error { return os.Chmod(path, 0o700) }, true, false},
		"removed":           {os.Remove, true, false},
		"directory removed": {func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, true, false},
		"touched":           {func(path string) error { return os.Chtimes(path, time.Now(), time.Now()) }, true, true},
		"the same again": {func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("code"), 0o750), os.Rename(path+".new", path))
		}, true, true},
		"times put back": {func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.WriteFile(path+".new", []byte("wode"), 0o750), os.Rename(path+".new", path), os.Chtimes(path, info.ModTime(), info.ModTime()))
		}, true, false},
		"a link to the same": {func(path string) error {
			return errors.Join(os.Rename(path, path+".1"), os.Symlink(path+".1", path))
		}, true, false},
		"a directory": {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o750)) }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, p, w := host(t, "code")
			f, err := s.Keep(t.Context(), w)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(test.change(w.Source)))
			qt.Check(t, qt.Equals(p.Changed(&f), test.changed))
			restored, err := p.Restored(t.Context(), &f)
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(restored, test.restored))
			qt.Check(t, qt.IsNil(s.Check(t.Context(), &f, memory.ByDigest))) // the copy is none of it
		})
	}
}

// A file that was changed a moment ago may change again without its times telling.
func TestFreshFileHasNoStamp(t *testing.T) {
	testenv.Need(t, testenv.Root)
	s, p, w := host(t, "code")
	qt.Assert(t, qt.IsNil(os.WriteFile(w.Source, []byte("mode"), 0)))
	f, err := s.Keep(t.Context(), w)
	qt.Assert(t, qt.IsNil(err))
	if f.Stamp != "" {
		var st unix.Stat_t
		qt.Assert(t, qt.IsNil(unix.Stat(w.Source, &st)))
		qt.Assert(t, qt.IsTrue(trustworthy(&st))) // this machine was slow
		return
	}
	qt.Assert(t, qt.IsTrue(p.Changed(&f)))
}

func TestCheckDamage(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for name, damage := range map[string]func(path string) error{
		"removed":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 1) },
		"flipped":   func(path string) error { return os.WriteFile(path, []byte("wode"), 0) },
		"a link":    func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)) },
		"mode":      func(path string) error { return os.Chmod(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _, w := host(t, "code")
			f, err := s.Keep(t.Context(), w)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(damage(s.Path(&f))))
			qt.Assert(t, qt.ErrorIs(s.Check(t.Context(), &f, memory.ByStamp), ErrDamaged))
			// What keeps it again mends it.
			f, err = s.Keep(t.Context(), w)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(s.Check(t.Context(), &f, memory.ByDigest)))
		})
	}
}

func TestValidate(t *testing.T) {
	sum := memory.ID("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	qt.Check(t, qt.IsNil((&File{Path: "/a", SHA256: sum}).Validate()))
	for _, bad := range []File{
		{Path: "a", SHA256: sum}, {Path: "/a/../b", SHA256: sum}, {Path: "/", SHA256: sum}, {Path: "/a"}, {Path: "/a", SHA256: sum, ID: "../x"},
	} {
		qt.Check(t, qt.IsNotNil(bad.Validate()), qt.Commentf("%v", bad))
	}
}
