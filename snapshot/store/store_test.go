package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// bench is a store, with what its snapshots share.
type bench struct {
	*Store
	state string
	freed atomic.Int32 // how often Freed was called
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{state: t.TempDir()}
	opt := Options{Dir: filepath.Join(b.state, "snapshots"), Freed: func() { b.freed.Add(1) }}
	var err [4]error
	opt.Memory, err[0] = memory.Open(filepath.Join(b.state, "memory"))
	opt.Layers, err[1] = layer.Open(filepath.Join(b.state, "layers"))
	opt.HostFiles, err[2] = hostfile.Open(filepath.Join(b.state, "files"))
	b.Store, err[3] = Open(opt)
	qt.Assert(t, qt.IsNil(errors.Join(err[:]...)))
	return b
}

// write writes a snapshot of an app without processes, whose files are one layer.
func (b *bench) write(t *testing.T, name string) {
	t.Helper()
	dir, free, err := b.Reserve(name, "web")
	qt.Assert(t, qt.IsNil(err))
	defer free()
	_, err = snapshot.TakeFiles(t.Context(), snapshot.FilesOptions{
		Target: string(dir), Layers: b.opt.Layers,
		Manifest: snapshot.Manifest{
			Name: filepath.Base(string(dir)), App: "web",
			Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
		},
		CopyFiles: func(_ context.Context, to snapshot.Dir) error {
			return errors.Join(os.Mkdir(to.Storage(), 0o700), os.WriteFile(filepath.Join(to.Storage(), "index.html"), []byte("<p>"), 0o600))
		},
	})
	qt.Assert(t, qt.IsNil(err))
}

// layers lists what is in the directory of layers.
func (b *bench) layers(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.state, "layers"))
	qt.Assert(t, qt.IsNil(err))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWriteFindRemove(t *testing.T) {
	b := open(t)
	b.write(t, "s")
	dir, m, err := b.Find("s")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(dir, b.Dir("s")))
	qt.Assert(t, qt.Equals(m.App, "web"))
	qt.Assert(t, qt.Equals(b.freed.Load(), 0))
	qt.Assert(t, qt.IsNil(b.Remove("s")))
	qt.Assert(t, qt.Equals(b.freed.Load(), 1))
	_, _, err = b.Find("s")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	qt.Assert(t, qt.ErrorMatches(b.Remove("s"), "snapshot s: not found"))
	qt.Assert(t, qt.HasLen(b.claims, 0)) // nothing is left in memory
}

func TestNamesThatLeadOut(t *testing.T) {
	b := open(t)
	for _, name := range []string{"../s", ".", ".partial-s"} {
		_, _, err := b.Find(name)
		qt.Assert(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
		qt.Assert(t, qt.ErrorIs(b.Remove(name), errdefs.ErrInvalidArgument))
		_, _, err = b.Reserve(name, "web")
		qt.Assert(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	}
	_, _, err := b.Find("")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
}

func TestNames(t *testing.T) {
	b := open(t)
	b.write(t, "b")
	b.write(t, "a")
	qt.Assert(t, qt.IsNil(os.Mkdir(string(b.Dir("unreadable")), 0o700)))
	qt.Assert(t, qt.IsNil(os.Mkdir(string(b.Dir(".partial-x")), 0o700)))
	names, err := b.Names()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(names, []string{"a", "b", "unreadable"}))
	_, _, err = b.Find("unreadable")
	qt.Assert(t, qt.ErrorIs(err, tree.ErrDamaged))
}

func TestOpenSweepsWhatWasInterrupted(t *testing.T) {
	b := open(t)
	b.write(t, "s")
	half, err := snapshot.Begin(string(b.Dir("half")))
	qt.Assert(t, qt.IsNil(err))
	_, err = Open(b.opt)
	qt.Assert(t, qt.IsNil(err))
	_, err = os.Lstat(string(half.Dir()))
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	_, _, err = b.Find("s")
	qt.Assert(t, qt.IsNil(err))
}

func TestReserve(t *testing.T) {
	b := open(t)
	dir, free, err := b.Reserve("", "web")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(dir, b.Dir("web-1")))
	_, _, err = b.Reserve("web-1", "other")
	qt.Assert(t, qt.ErrorMatches(err, "snapshot web-1: already exists"))
	// Another one gets the next number, whether the first is being written or is there.
	dir, free2, err := b.Reserve("", "web")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(dir, b.Dir("web-2")))
	free2()
	free()
	free() // once more does nothing
	b.write(t, "")
	dir, free, err = b.Reserve("", "web")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(dir, b.Dir("web-2")))
	free()
	_, _, err = b.Reserve("web-1", "web")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Assert(t, qt.HasLen(b.claims, 0))
}

// A snapshot that was written between the look at the directory and the taking of its name keeps it.
func TestReserveLooksAgain(t *testing.T) {
	b := open(t)
	b.mu.Lock()
	before := b.written
	b.mu.Unlock()
	b.write(t, "s")
	_, settled := b.takeUnless("s", before)
	qt.Assert(t, qt.IsFalse(settled))
	_, _, err := b.Reserve("s", "web")
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
}

func TestReserveOnce(t *testing.T) {
	b := open(t)
	var got atomic.Int32
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			if _, _, err := b.Reserve("s", "web"); err == nil {
				got.Add(1)
			}
		})
	}
	g.Wait()
	qt.Assert(t, qt.Equals(got.Load(), 1))
}

// Last finds the newest snapshot of an app, whatever it is called.
func TestLast(t *testing.T) {
	b := open(t)
	qt.Check(t, qt.Equals(b.Last("web"), snapshot.Dir("")))
	for i, name := range []string{"web-1", "another", "web-2", "third"} {
		b.write(t, name)
		when := time.Unix(int64(1_700_000_000+i), 0)
		qt.Assert(t, qt.IsNil(os.Chtimes(string(b.Dir(name)), when, when)))
	}
	qt.Check(t, qt.Equals(b.Last("web"), b.Dir("third")))
	qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(string(b.Dir("third")), "manifest.json"))))
	qt.Check(t, qt.Equals(b.Last("web"), b.Dir("web-2")))
	qt.Check(t, qt.Equals(b.Last("other"), snapshot.Dir("")))
}
