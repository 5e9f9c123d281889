package trust

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	qt.Assert(t, qt.IsNil(err))
	return b
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, name), data, 0o600)))
}

// names lists a directory.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	qt.Assert(t, qt.IsNil(err))
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// full has the next write of a file find its disk full: what is written aside goes to /dev/full,
// where every write fails with ENOSPC (full(4)).
func full(t *testing.T, dir, name string) {
	t.Helper()
	qt.Assert(t, qt.IsNil(os.Symlink("/dev/full", filepath.Join(dir, name+half))))
}

// damage hands out data with one bit changed, for each seventh of its bytes in turn, and cut
// short there. Most of that has to be an error.
func damage(t *testing.T, data []byte, open func(*testing.T, []byte) error) {
	t.Helper()
	noticed, tried := 0, 0
	for at := 0; at < len(data); at += 7 {
		tried += 2
		bad := bytes.Clone(data)
		bad[at] ^= 1
		if open(t, bad) != nil {
			noticed++
		}
		if open(t, data[:at]) != nil {
			noticed++
		}
	}
	qt.Assert(t, qt.IsTrue(noticed > tried*3/4), qt.Commentf("%d of %d", noticed, tried))
}
