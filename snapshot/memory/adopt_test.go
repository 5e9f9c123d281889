package memory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// TestAdoptSeveral adopts files some of which have the same content, and some that
// the store has.
func TestAdoptSeveral(t *testing.T) {
	s, dir := store(t)
	known := adopt(t, s, dir, "known")
	paths := []string{file(t, dir, "a"), file(t, dir, "b"), file(t, dir, "a"), file(t, dir, "known"), file(t, dir, "a")}
	files, err := s.AdoptAll(t.Context(), paths)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals([]ID{files[0].ID, files[1].ID, files[3].ID}, []ID{idOf("a"), idOf("b"), known.ID}))
	qt.Assert(t, qt.IsTrue(files[0] == files[2] && files[0] == files[4]))
	for _, path := range paths {
		_, err := os.Lstat(path)
		qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	}
	s.Unpin(files[:4])
	s.Unpin([]File{known})
	qt.Assert(t, qt.DeepEquals(sweep(t, s), []string{string(idOf("a"))})) // pinned thrice
	s.Unpin(files[4:])
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
}

// TestAdoptMany adopts more files than it opens at the same time.
func TestAdoptMany(t *testing.T) {
	s, dir := store(t)
	paths, want := make([]string, maxOpen+7), make([]ID, maxOpen+7)
	for i := range paths {
		content := fmt.Sprint("file ", i)
		paths[i], want[i] = file(t, dir, content), idOf(content)
	}
	files, err := s.AdoptAll(t.Context(), paths)
	qt.Assert(t, qt.IsNil(err))
	for i, f := range files {
		qt.Assert(t, qt.Equals(f.ID, want[i]))
		qt.Assert(t, qt.IsNil(s.Check(t.Context(), f, ByDigest)))
	}
	s.Unpin(files)
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
}

// TestAdoptNone leaves nothing pinned if one of several can't be adopted.
func TestAdoptNone(t *testing.T) {
	s, dir := store(t)
	good, missing := file(t, dir, "good"), filepath.Join(dir, "missing")
	_, err := s.AdoptAll(t.Context(), []string{good, missing})
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.AdoptAll(ctx, []string{good})
	qt.Assert(t, qt.ErrorIs(err, context.Canceled))
	b, err := os.ReadFile(good)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), "good"))
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
	// What is in the way of one, when another has its place already.
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(s.Path(idOf("taken")), "x"), 0o700)))
	_, err = s.AdoptAll(t.Context(), []string{good, file(t, dir, "taken")})
	qt.Assert(t, qt.IsNotNil(err))
	_, err = os.Lstat(s.Path(idOf("good")))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.RemoveAll(s.Path(idOf("taken")))))
	qt.Assert(t, qt.HasLen(sweep(t, s), 0))
}
