package snapshot

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// Two apps made the same directory, and nothing else, but for what no digest is of:
// each keeps its own.
func TestLayersOfOtherOwnersAreOthers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	layers, err := OpenLayers(filepath.Join(dir, "layers"))
	qt.Assert(t, qt.IsNil(err))
	adopt := func(uid int, mark string) string {
		t.Helper()
		tree := filepath.Join(dir, "tree")
		made := filepath.Join(tree, "srv")
		qt.Assert(t, qt.IsNil(os.MkdirAll(made, 0o755)))
		qt.Assert(t, qt.IsNil(os.Chown(made, uid, uid)))
		qt.Assert(t, qt.IsNil(unix.Setxattr(made, "trusted.overlay.opaque", []byte(mark), 0)))
		layer, err := layers.adopt(t.Context(), tree)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(layers.Check(t.Context(), layer, ByDigest)))
		return filepath.Join(layers.Path(layer.ID), "srv")
	}
	alone, merged := adopt(7, "y"), adopt(0, "n")
	for path, uid := range map[string]int{alone: 7, merged: 0} {
		info, err := os.Stat(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(int(info.Sys().(*syscall.Stat_t).Uid), uid))
		marks, err := marksOf(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(marks.Opaque, uid == 7))
	}
}
