package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/testenv"
)

// otherFS returns a fresh directory on another file system than t.TempDir.
func otherFS(tb testing.TB) string {
	tb.Helper()
	const shm = "/dev/shm"
	here := tb.TempDir()
	testenv.Need(tb, func(context.Context) error {
		var a, b unix.Stat_t
		if err := errors.Join(unix.Stat(here, &a), unix.Stat(shm, &b)); err != nil {
			return err
		}
		if a.Dev == b.Dev {
			return fmt.Errorf("%s and %s are on one file system", here, shm)
		}
		return nil
	})
	dir, err := os.MkdirTemp(shm, "image-test-") //nolint:usetesting // not where TempDir is
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { qt.Check(tb, qt.IsNil(os.RemoveAll(dir))) })
	return dir
}

func TestNewView(t *testing.T) {
	for place, where := range map[string]func(*testing.T) string{
		"same file system":  func(t *testing.T) string { t.Helper(); return t.TempDir() },
		"other file system": func(t *testing.T) string { t.Helper(); return otherFS(t) },
	} {
		t.Run(place, func(t *testing.T) {
			images, view := filepath.Join(t.TempDir(), "images"), filepath.Join(where(t), "view")
			qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(images, "..", "before"), 0o700)))
			qt.Assert(t, qt.IsNil(os.Mkdir(images, 0o700)))
			qt.Assert(t, qt.IsNil(os.Symlink("../before", filepath.Join(images, "parent"))))
			for _, name := range []string{
				"files.img", "pages-1.img", "tmpfs-dev-60.tar.gz.img",
				// CRIU writes to these names in the directory that it restores from.
				"stats-restore", "restore.log", "irmap-cache", ".hidden.img",
			} {
				qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, name), []byte(name), 0o600)))
			}

			v, err := NewView(t.Context(), images, view)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(v.Dir(), view))
			qt.Check(t, qt.Equals(v.Images(), images))
			got := imagetest.Listing(t, view)
			qt.Check(t, qt.ContentEquals(slices.Collect(maps.Keys(got)),
				[]string{"files.img", "pages-1.img", "tmpfs-dev-60.tar.gz.img", "parent"}))
			for name, target := range got {
				qt.Check(t, qt.IsFalse(filepath.IsAbs(target)), qt.Commentf("%s", name))
			}
			qt.Check(t, qt.HasLen(imagetest.Edited(t, v.Dir(), v.Images()), 0))

			qt.Assert(t, qt.IsNil(v.Replace("files.img", []byte("edited"))))
			qt.Check(t, qt.DeepEquals(imagetest.Edited(t, v.Dir(), v.Images()), []string{"files.img"}))
			for dir, want := range map[string]string{view: "edited", images: "files.img"} {
				text, err := os.ReadFile(filepath.Join(dir, "files.img"))
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.Equals(string(text), want))
			}

			qt.Assert(t, qt.IsNil(v.Remove()))
			qt.Assert(t, qt.IsNil(v.Remove()))
			qt.Check(t, qt.HasLen(imagetest.Listing(t, images), 8))
		})
	}
}

func TestNewViewFailure(t *testing.T) {
	images := t.TempDir()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, "a.img"), nil, 0o600)))
	full := t.TempDir()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(full, "mine"), nil, 0o600)))
	fresh := filepath.Join(t.TempDir(), "view")
	empty := t.TempDir()

	tests := map[string]struct {
		cancelled   bool
		images, dir string
		want        error
		left        bool // whether dir is there afterwards
	}{
		"full":               {false, images, full, os.ErrExist, true},
		"missing images":     {false, images + "x", fresh, os.ErrNotExist, false},
		"no images":          {false, empty, fresh, os.ErrNotExist, false},
		"cancelled":          {true, images, fresh, context.Canceled, false},
		"cancelled in empty": {true, images, empty, context.Canceled, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := 0
			if tc.left {
				before = len(imagetest.Listing(t, tc.dir))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tc.cancelled {
				cancel()
			}
			_, err := NewView(ctx, tc.images, tc.dir)
			qt.Check(t, qt.ErrorIs(err, tc.want))
			_, err = os.Stat(tc.dir)
			if !tc.left {
				qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(imagetest.Listing(t, tc.dir), before))
		})
	}
}
