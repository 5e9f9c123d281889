package memory

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// store opens a fresh one, beside a directory on the same file system.
func store(t *testing.T) (s *Store, beside string) {
	t.Helper()
	beside = t.TempDir()
	s, err := Open(filepath.Join(beside, "memory"))
	qt.Assert(t, qt.IsNil(err))
	return s, beside
}

func idOf(content string) ID {
	sum := sha256.Sum256([]byte(content))
	return ID(hex.EncodeToString(sum[:]))
}

// file makes a file to be adopted.
func file(t *testing.T, dir, content string) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "pages-")
	qt.Assert(t, qt.IsNil(err))
	_, err = f.WriteString(content)
	qt.Assert(t, qt.IsNil(errors.Join(err, f.Close())))
	return f.Name()
}

func adopt(t *testing.T, s *Store, dir, content string) File {
	t.Helper()
	path := file(t, dir, content)
	f, err := s.Adopt(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	_, err = os.Lstat(path)
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	return f
}

// sweep keeps some files, and returns what is in the store then.
func sweep(t *testing.T, s *Store, keep ...ID) []string {
	t.Helper()
	kept := make(map[ID]bool)
	for _, id := range keep {
		kept[id] = true
	}
	_, err := s.Sweep(func() (map[ID]bool, error) { return kept, nil })
	qt.Assert(t, qt.IsNil(err))
	return list(t, s)
}

func list(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.path)
	qt.Assert(t, qt.IsNil(err))
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestMappable(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	for flags, want := range map[uintptr]bool{0: true, unix.MS_NOEXEC: false} {
		qt.Assert(t, qt.IsNil(unix.Mount("tmpfs", dir, "tmpfs", flags, "size=64k")))
		s, err := Open(filepath.Join(dir, "memory"))
		qt.Check(t, qt.IsNil(err))
		got, err := s.Mappable()
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(got, want))
		qt.Check(t, qt.IsNil(unix.Unmount(dir, 0)))
	}
}

func TestCheck(t *testing.T) {
	const content = "some pages"
	for name, test := range map[string]struct {
		damage            func(t *testing.T, path string)
		byStamp, byDigest string // what is wrong; "" is nothing
	}{
		"whole": {damage: func(*testing.T, string) {}},
		"touched": {damage: func(t *testing.T, path string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Chtimes(path, time.Now(), time.Now())))
		}},
		"copied": {damage: func(t *testing.T, path string) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.Remove(path)))
			qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(content), 0o400)))
		}},
		"flipped byte, times put back": {
			damage: func(t *testing.T, path string) {
				t.Helper()
				info, err := os.Stat(path)
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("some wages"), 0o400)))
				qt.Assert(t, qt.IsNil(os.Chtimes(path, info.ModTime(), info.ModTime())))
			},
			byStamp: "its content changed", byDigest: "its content changed",
		},
		"truncated": {
			damage: func(t *testing.T, path string) {
				t.Helper()
				qt.Assert(t, qt.IsNil(os.Truncate(path, 5)))
			},
			byStamp: "its size changed", byDigest: "its size changed",
		},
		"missing": {
			damage: func(t *testing.T, path string) {
				t.Helper()
				qt.Assert(t, qt.IsNil(os.Remove(path)))
			},
			byStamp: "no such file", byDigest: "no such file",
		},
		"a link to the same content": {
			damage: func(t *testing.T, path string) {
				t.Helper()
				moved := filepath.Join(t.TempDir(), "moved")
				qt.Assert(t, qt.IsNil(os.WriteFile(moved, []byte(content), 0o400)))
				qt.Assert(t, qt.IsNil(os.Remove(path)))
				qt.Assert(t, qt.IsNil(os.Symlink(moved, path)))
			},
			byStamp: "no regular file", byDigest: "no regular file",
		},
		"a FIFO": {
			damage: func(t *testing.T, path string) {
				t.Helper()
				qt.Assert(t, qt.IsNil(os.Remove(path)))
				qt.Assert(t, qt.IsNil(unix.Mkfifo(path, 0o400)))
			},
			byStamp: "no regular file", byDigest: "no regular file",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := store(t)
			f := adopt(t, s, dir, content)
			test.damage(t, s.Path(f.ID))
			for depth, want := range map[Depth]string{ByStamp: test.byStamp, ByDigest: test.byDigest} {
				err := s.Check(t.Context(), f, depth)
				if want == "" {
					qt.Check(t, qt.IsNil(err))
					continue
				}
				qt.Check(t, qt.ErrorIs(err, ErrDamaged))
				qt.Check(t, qt.ErrorMatches(err, ".*"+string(f.ID)+".*"+want+".*"))
			}
		})
	}
	t.Run("a stamp is trusted", func(t *testing.T) {
		s, dir := store(t)
		f := adopt(t, s, dir, content)
		// As if the disk had gone bad: neither size nor stamp tell.
		other := idOf("some wages")
		qt.Assert(t, qt.IsNil(os.Rename(s.Path(f.ID), s.Path(other))))
		now, err := s.describe(other)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsNil(s.Check(t.Context(), now, ByStamp)))
		qt.Check(t, qt.ErrorIs(s.Check(t.Context(), now, ByDigest), ErrDamaged))
	})
}

func TestIDs(t *testing.T) {
	good := string(idOf("x"))
	qt.Assert(t, qt.IsNil(ID(good).Validate()))
	s, _ := store(t)
	for _, bad := range []string{"", "..", "../" + good, good[:62], good + "00", strings.ToUpper(good), strings.Repeat("z", 64), good[:63] + "/"} {
		qt.Check(t, qt.ErrorIs(ID(bad).Validate(), ErrID))
		_, err := s.OpenFile(ID(bad))
		qt.Check(t, qt.ErrorIs(err, ErrID))
		qt.Check(t, qt.ErrorIs(s.Check(t.Context(), File{ID: ID(bad)}, ByStamp), ErrDamaged))
	}
}

func TestSweep(t *testing.T) {
	s, dir := store(t)
	kept, pinned, loose := adopt(t, s, dir, "kept"), adopt(t, s, dir, "pinned"), adopt(t, s, dir, "loose")
	s.Unpin([]File{kept, loose})
	outside := file(t, dir, "outside")
	foreign := filepath.Join(s.path, "foreign")
	qt.Assert(t, qt.IsNil(os.WriteFile(foreign, []byte("foreign"), 0o600)))
	qt.Assert(t, qt.IsNil(os.Symlink(outside, filepath.Join(s.path, "link"))))
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(s.path, "dir", "sub"), 0o700)))

	fail := errors.New("can't tell")
	_, err := s.Sweep(func() (map[ID]bool, error) { return nil, fail })
	qt.Assert(t, qt.ErrorIs(err, fail))
	qt.Assert(t, qt.HasLen(list(t, s), 6))

	freed, err := s.Sweep(func() (map[ID]bool, error) { return map[ID]bool{kept.ID: true}, nil })
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(freed, int64(len("loose")+len("foreign"))))
	qt.Assert(t, qt.ContentEquals(list(t, s), []string{string(kept.ID), string(pinned.ID)}))
	_, err = os.Lstat(outside)
	qt.Assert(t, qt.IsNil(err))

	// Another store of the same directory, as after the death of the daemon, has
	// nothing pinned.
	next, err := Open(s.path)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(sweep(t, next, kept.ID), []string{string(kept.ID)}))
}

// TestConcurrently has many adopt the same few files, note them down as a manifest
// does, and forget them, while the store is swept without end. What is noted down
// is there.
func TestConcurrently(t *testing.T) {
	s, dir := store(t)
	var mu sync.Mutex
	noted := make(map[ID]int)
	note := func(id ID, n int) {
		mu.Lock()
		defer mu.Unlock()
		noted[id] += n
	}
	needed := func() (map[ID]bool, error) {
		mu.Lock()
		defer mu.Unlock()
		all := make(map[ID]bool)
		for id, n := range noted {
			all[id] = n > 0
		}
		return all, nil
	}
	stop := make(chan struct{})
	var sweeper, workers sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Sweep(needed); err != nil {
				t.Error(err)
			}
		}
	})
	for worker := range 8 {
		workers.Go(func() {
			for i := range 60 {
				path := filepath.Join(dir, fmt.Sprintf("pages-%d", worker))
				if err := os.WriteFile(path, []byte(strings.Repeat(fmt.Sprint((worker+i)%3), 10_000)), 0o600); err != nil {
					t.Error(err)
					return
				}
				f, err := s.Adopt(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				note(f.ID, 1)
				s.Unpin([]File{f})
				if err := s.Check(t.Context(), f, ByDigest); err != nil {
					t.Error(err)
				}
				s.Pin([]File{f})
				note(f.ID, -1)
				if err := s.Check(t.Context(), f, ByStamp); err != nil {
					t.Error(err)
				}
				s.Unpin([]File{f})
			}
		})
	}
	workers.Wait()
	close(stop)
	sweeper.Wait()
	qt.Assert(t, qt.DeepEquals(sweep(t, s), []string{}))
	qt.Assert(t, qt.Equals(s.dir.Pinned(), 0))
}
