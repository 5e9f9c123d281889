package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// has tells which of some layers there are.
func (b *bench) has(t *testing.T, layers ...layer.Ref) (there []bool) {
	t.Helper()
	for _, l := range layers {
		_, err := os.Stat(b.Layers.Path(l.ID))
		there = append(there, err == nil)
	}
	return there
}

// memoryFile adds a memory file to the storage, which nobody has pinned.
func (b *bench) memoryFile(t *testing.T, content string) memory.File {
	t.Helper()
	path := filepath.Join(b.state, "images", "pages-1.img")
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Dir(path), 0o700)))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte(content), 0o600)))
	f, err := b.Memory.Adopt(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	b.Memory.Unpin([]memory.File{f})
	return f
}

func TestSweep(t *testing.T) {
	b := newBench(t, directly)
	lower := b.layer(t, nil, "lower")
	needed := b.layer(t, lower, "upper")
	unneeded := b.layer(t, nil, "another")
	mapped, unmapped := b.memoryFile(t, "mapped"), b.memoryFile(t, "unmapped")
	n := NoNeeds()
	n.Add([]memory.File{mapped}, needed, nil)
	freed, err := b.sweepOnce(Users{Needed: func() (Needs, error) { return n, nil }, Mounted: func() []Stack { return nil }})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(freed >= int64(len("another")+len("unmapped"))))
	qt.Assert(t, qt.DeepEquals(b.has(t, needed[0], needed[1], unneeded[0]), []bool{true, true, false}))
	_, err = os.Stat(b.Memory.Path(mapped.ID))
	qt.Assert(t, qt.IsNil(err))
	_, err = os.Stat(b.Memory.Path(unmapped.ID))
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
}

// Nothing is removed if it is not known what is needed. Trees of stubs can be made again.
func TestSweepOfTheUnknown(t *testing.T) {
	b := newBench(t, byStubs)
	layers := b.layer(t, nil, "f")
	_, err := b.sweepOnce(Users{
		Needed:  func() (Needs, error) { return NoNeeds(), errors.New("can't read a record") },
		Mounted: func() []Stack { return []Stack{{Layers: layers, Root: "/"}} },
	})
	qt.Assert(t, qt.ErrorMatches(err, "(?s).*can't read a record.*"))
	qt.Assert(t, qt.DeepEquals(b.has(t, layers...), []bool{true}))
	qt.Assert(t, qt.DeepEquals(b.kept, map[string]bool{"/state/layers+" + string(layers[0].ID): true}))
}

func TestSweepOfStubs(t *testing.T) {
	b := newBench(t, byStubs)
	b.try = func(lower string) (sandbox.Stacking, error) {
		return map[string]sandbox.Stacking{"/": byStubs, "/srv": directly}[lower], nil
	}
	mounted := []Stack{
		{Layers: []layer.Ref{{ID: "a"}}, Root: "/"},
		{Layers: []layer.Ref{{ID: "a"}}, Root: "/srv"},
		{Layers: []layer.Ref{{ID: "b"}, {ID: "a"}}, Root: "/"},
	}
	_, err := b.sweepOnce(Users{Needed: func() (Needs, error) { return NoNeeds(), nil }, Mounted: func() []Stack { return mounted }})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(b.kept, map[string]bool{"/state/layers+a": true, "/state/layers+b+a": true}))
}

func TestSweepSoon(t *testing.T) {
	b := newBench(t, directly)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	users := Users{
		Needed: func() (Needs, error) { return NoNeeds(), nil },
		Mounted: func() []Stack { // is asked last
			select {
			case asked <- struct{}{}:
			case <-ctx.Done():
			}
			return nil
		},
	}
	var g sync.WaitGroup
	g.Go(func() { b.Storage.Sweep(ctx, users) })
	<-asked // at the start
	layers := b.layer(t, nil, "f")
	b.SweepSoon()
	b.SweepSoon() // does not wait
	<-asked
	qt.Assert(t, qt.DeepEquals(b.has(t, layers...), []bool{false}))
	cancel()
	g.Wait()
}

func TestNeedsOfASavedApp(t *testing.T) {
	b := newBench(t, directly)
	layers := b.layer(t, nil, "f")
	dir, err := snapshot.TakeFiles(t.Context(), snapshot.FilesOptions{
		Target: filepath.Join(b.state, "s"), Layers: b.Layers,
		Manifest: snapshot.Manifest{
			Name: "s", App: "web", Content: snapshot.Content{Layers: layers},
			Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
		},
	})
	qt.Assert(t, qt.IsNil(err))
	n := NoNeeds()
	qt.Assert(t, qt.IsNil(n.AddSaved(dir)))
	qt.Assert(t, qt.DeepEquals(n.layers, map[memory.ID]bool{layers[0].ID: true}))
	// What is not there needs nothing. What can't be read may need anything.
	qt.Assert(t, qt.IsNil(NoNeeds().AddSaved(snapshot.Dir(filepath.Join(b.state, "missing")))))
	qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(string(dir), "manifest.json"))))
	qt.Assert(t, qt.ErrorIs(NoNeeds().AddSaved(dir), tree.ErrDamaged))
}
