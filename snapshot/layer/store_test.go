package layer

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/testenv"
)

// Two apps made the same directory, and nothing else, but for what no digest is of:
// each keeps its own.
func TestLayersOfOtherOwnersAreOthers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	layers, err := Open(filepath.Join(dir, "layers"))
	qt.Assert(t, qt.IsNil(err))
	adopt := func(uid int, mark string) string {
		t.Helper()
		upper := filepath.Join(dir, "tree")
		made := filepath.Join(upper, "srv")
		qt.Assert(t, qt.IsNil(os.MkdirAll(made, 0o755)))
		qt.Assert(t, qt.IsNil(os.Chown(made, uid, uid)))
		qt.Assert(t, qt.IsNil(unix.Setxattr(made, "trusted.overlay.opaque", []byte(mark), 0)))
		layer, err := layers.Adopt(t.Context(), upper)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(layers.Check(t.Context(), layer, memory.ByDigest)))
		return filepath.Join(layers.Path(layer.ID), "srv")
	}
	alone, merged := adopt(7, "y"), adopt(0, "n")
	for path, uid := range map[string]int{alone: 7, merged: 0} {
		info, err := os.Stat(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(int(info.Sys().(*syscall.Stat_t).Uid), uid))
		marks, err := tree.ReadMarks(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(marks.Opaque, uid == 7))
	}
}

// TestSettle undoes and finishes the making of a layer.
func TestSettle(t *testing.T) {
	layers, err := Open(filepath.Join(t.TempDir(), "layers"))
	qt.Assert(t, qt.IsNil(err))
	dir := filepath.Join(t.TempDir(), "tree")
	write(t, dir, map[string]string{"a/b": "c"})
	n, err := layers.Describe(t.Context(), dir)
	qt.Assert(t, qt.IsNil(err))
	placed, err := layers.Settle(n.Ref, dir)
	qt.Assert(t, qt.IsTrue(err == nil && !placed))
	qt.Assert(t, qt.IsNil(n.Place()))
	placed, err = layers.Settle(n.Ref, dir)
	qt.Assert(t, qt.IsTrue(err == nil && placed))
	qt.Assert(t, qt.IsNil(layers.Check(t.Context(), n.Ref, memory.ByDigest)))
	// Killed before the list was written.
	qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(filepath.Dir(layers.Path(n.ID)), listFile))))
	placed, err = layers.Settle(n.Ref, dir)
	qt.Assert(t, qt.IsTrue(err == nil && !placed))
	b, err := os.ReadFile(filepath.Join(dir, "a/b"))
	qt.Assert(t, qt.IsTrue(err == nil && string(b) == "c"))
	empty := t.TempDir()
	n, err = layers.Describe(t.Context(), empty)
	qt.Assert(t, qt.IsTrue(err == nil && n == nil))
}

// TestFilesCalledLikeAManifest: a layer has every file of the app, whatever it is called.
// In the lists of an older snapctl two names were missing.
func TestFilesCalledLikeAManifest(t *testing.T) {
	layers, err := Open(filepath.Join(t.TempDir(), "layers"))
	qt.Assert(t, qt.IsNil(err))
	fill := func() string {
		dir := filepath.Join(t.TempDir(), "tree")
		write(t, dir, map[string]string{"manifest.json": "{}", "srv/manifest.json": "[]"})
		return dir
	}
	n, err := layers.Describe(t.Context(), fill())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(n.SizeBytes, int64(len("{}")+len("[]"))))
	qt.Assert(t, qt.IsNil(n.Place()))
	qt.Assert(t, qt.IsNil(layers.Check(t.Context(), n.Ref, memory.ByDigest)))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(layers.Path(n.ID), "manifest.json"), []byte("!!"), 0o600)))
	qt.Assert(t, qt.ErrorIs(layers.Check(t.Context(), n.Ref, memory.ByDigest), tree.ErrDamaged))

	n, err = layers.Describe(t.Context(), fill())
	qt.Assert(t, qt.IsNil(err))
	files, err := tree.Describe(t.Context(), n.tree, unlisted...)
	qt.Assert(t, qt.IsNil(err))
	n.list, err = json.Marshal(files)
	qt.Assert(t, qt.IsNil(err))
	n.ID = memory.ID(fmt.Sprintf("%x", sha256.Sum256(n.list)))
	qt.Assert(t, qt.IsNil(n.Place()))
	qt.Assert(t, qt.IsNil(layers.Check(t.Context(), n.Ref, memory.ByDigest)))
}
