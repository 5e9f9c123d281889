package image

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// listing returns the names in a directory, and the targets of links.
func listing(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	qt.Assert(tb, qt.IsNil(err))
	got := make(map[string]string)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			target = ""
		}
		got[entry.Name()] = target
	}
	return got
}

func TestNewView(t *testing.T) {
	images := t.TempDir()
	want := make(map[string]string)
	view := filepath.Join(t.TempDir(), "view")
	for _, name := range []string{"files.img", "pages-1.img", "tmpfs-dev-60.tar.gz.img", "parent"} {
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, name), []byte(name), 0o600)))
		want[name] = filepath.Join(images, name)
	}
	// CRIU writes to these names in the directory that it restores from.
	for _, name := range []string{"stats-restore", "restore.log", "irmap-cache", ".hidden.img"} {
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, name), nil, 0o600)))
	}

	v, err := NewView(t.Context(), images, view)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(v.Dir(), view))
	qt.Check(t, qt.Equals(v.Images(), images))
	qt.Check(t, qt.DeepEquals(listing(t, view), want))

	qt.Assert(t, qt.IsNil(v.replace("files.img", []byte("edited"))))
	got, err := os.ReadFile(filepath.Join(view, "files.img"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(got), "edited"))
	got, err = os.ReadFile(filepath.Join(images, "files.img"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(got), "files.img"))

	qt.Assert(t, qt.IsNil(v.Remove()))
	qt.Assert(t, qt.IsNil(v.Remove()))
	qt.Check(t, qt.HasLen(listing(t, images), 8))
}

func TestNewViewFailure(t *testing.T) {
	images := t.TempDir()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(images, "a.img"), nil, 0o600)))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	full := t.TempDir()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(full, "mine"), nil, 0o600)))
	fresh := filepath.Join(t.TempDir(), "view")
	empty := t.TempDir()

	tests := map[string]struct {
		ctx         context.Context
		images, dir string
		want        error
		left        bool // whether dir is there afterwards
	}{
		"full":               {t.Context(), images, full, os.ErrExist, true},
		"missing images":     {t.Context(), images + "x", fresh, os.ErrNotExist, false},
		"no images":          {t.Context(), empty, fresh, os.ErrNotExist, false},
		"cancelled":          {cancelled, images, fresh, context.Canceled, false},
		"cancelled in empty": {cancelled, images, empty, context.Canceled, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := 0
			if tc.left {
				before = len(listing(t, tc.dir))
			}
			_, err := NewView(tc.ctx, tc.images, tc.dir)
			qt.Check(t, qt.ErrorIs(err, tc.want))
			_, err = os.Stat(tc.dir)
			if !tc.left {
				qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(listing(t, tc.dir), before))
		})
	}
}
