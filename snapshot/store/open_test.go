package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// sweep removes all layers that are not pinned.
func (b *bench) sweep(t *testing.T) {
	t.Helper()
	_, err := b.opt.Layers.Sweep(func() (map[memory.ID]bool, error) { return nil, nil })
	qt.Assert(t, qt.IsNil(err))
}

func TestOpenPins(t *testing.T) {
	b := open(t)
	b.write(t, "s")
	s, err := b.Open(t.Context(), "s", snapshot.ByDigest)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(s.Manifest.App, "web"))
	b.sweep(t)
	qt.Assert(t, qt.HasLen(b.layers(t), 1))
	s.Close()
	qt.Assert(t, qt.Equals(b.freed.Load(), 0))
	b.sweep(t)
	qt.Assert(t, qt.HasLen(b.layers(t), 0))
}

// A snapshot may be removed while it is open: a sweep is due when it is closed.
func TestCloseAfterRemoval(t *testing.T) {
	for name, again := range map[string]bool{"removed": false, "replaced": true} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			b.write(t, "s")
			b.write(t, "before")
			qt.Assert(t, qt.IsNil(b.Remove("before")))
			s, err := b.Open(t.Context(), "s", snapshot.BySize)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(b.Remove("s")))
			if again {
				b.write(t, "s")
			}
			freed := b.freed.Load()
			s.Close()
			qt.Assert(t, qt.Equals(b.freed.Load(), freed+1))
		})
	}
}

func TestOpenChecks(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(t *testing.T, b *bench)
		depth  snapshot.Depth
	}{
		"changed byte of a layer": {func(t *testing.T, b *bench) {
			t.Helper()
			file := filepath.Join(b.state, "layers", b.layers(t)[0], "tree", "index.html")
			qt.Assert(t, qt.IsNil(os.WriteFile(file, []byte("<q>"), 0o600)))
		}, snapshot.ByDigest},
		"missing layer": {func(t *testing.T, b *bench) {
			t.Helper()
			b.sweep(t)
		}, snapshot.BySize},
		"file that does not belong there": {func(t *testing.T, b *bench) {
			t.Helper()
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(string(b.Dir("s")), "more"), nil, 0o600)))
		}, snapshot.BySize},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			b.write(t, "s")
			test.damage(t, b)
			_, err := b.Open(t.Context(), "s", test.depth)
			qt.Assert(t, qt.ErrorIs(err, tree.ErrDamaged))
			qt.Assert(t, qt.ErrorMatches(err, "snapshot s: .*"))
			// What was pinned is not any more.
			b.sweep(t)
			qt.Assert(t, qt.HasLen(b.layers(t), 0))
		})
	}
}

// What is begun may be looked at before it is known to be whole.
func TestBegin(t *testing.T) {
	b := open(t)
	b.write(t, "s")
	b.sweep(t)
	s, err := b.Begin(t.Context(), "s", snapshot.BySize)
	qt.Assert(t, qt.IsNil(err))
	defer s.Close()
	qt.Assert(t, qt.Equals(s.Manifest.Name, "s"))
	qt.Assert(t, qt.ErrorIs(s.Checked(), tree.ErrDamaged))
	qt.Assert(t, qt.ErrorIs(s.Checked(), tree.ErrDamaged)) // whoever asks is told
	_, err = b.Begin(t.Context(), "other", snapshot.BySize)
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrNotFound))
}
