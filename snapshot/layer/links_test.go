package layer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/relink"
)

// TestRelink writes to one name of a file that a layer has: the others show it, unlike
// in an overlay alone.
func TestRelink(t *testing.T) {
	s := newStack(t)
	s.mounted(func(root string) {
		write(t, root, map[string]string{"d/one": "old", "e/gone": "x", "alone": "alone", "dir/in": "in"})
		for from, to := range map[string]string{"d/one": "d/two", "e/gone": "e/left", "dir/in": "out"} {
			qt.Assert(t, qt.IsNil(os.Link(filepath.Join(root, from), filepath.Join(root, to))))
		}
		qt.Assert(t, qt.IsNil(os.Link(filepath.Join(root, "d/one"), filepath.Join(root, "three"))))
	})
	s.keep()
	s.mounted(func(root string) { // hides one of two names, and a directory
		qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(root, "e/gone"))))
		qt.Assert(t, qt.IsNil(os.RemoveAll(filepath.Join(root, "dir"))))
		qt.Assert(t, qt.IsNil(os.Symlink("/d", filepath.Join(root, "dir"))))
	})
	s.keep()
	names, err := s.layers.Linked(s.made)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.ContentEquals(names, []string{"d/one", "d/two", "three", "e/gone", "e/left", "dir/in", "out"}))
	qt.Check(t, qt.IsFalse(s.made[0].Linked))
	qt.Check(t, qt.Equals(s.made[1].SizeBytes, int64(len("old"+"x"+"alone"+"in"))))
	for _, linked := range []bool{false, true} {
		s.mounted(func(root string) {
			before, err := os.Stat(filepath.Join(root, "d"))
			qt.Assert(t, qt.IsNil(err))
			if linked {
				qt.Assert(t, qt.IsNil(relink.Files(t.Context(), root, names)))
			}
			after, err := os.Stat(filepath.Join(root, "d"))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.IsTrue(after.ModTime().Equal(before.ModTime())))
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(root, "d/two"), []byte("new"), 0o600)))
			for name, want := range map[string]bool{"d/one": linked, "d/two": true, "three": linked} {
				b, err := os.ReadFile(filepath.Join(root, name))
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.Equals(string(b) == "new", want), qt.Commentf("%s, linked again: %t", name, linked))
			}
			b, err := os.ReadFile(filepath.Join(root, "out"))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(string(b), "in"))
		})
		_, err = os.Lstat(filepath.Join(s.upper, "alone"))
		qt.Check(t, qt.ErrorIs(err, os.ErrNotExist)) // nothing else was copied
	}
}
