package storage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot/layer"
)

// fakeStubs are trees that exist by their names only.
type fakeStubs struct {
	made    []string // what Make has made
	err     error    // that Make returns
	refuses bool     // what would be a layer
	kept    map[string]bool
}

func (f *fakeStubs) Stack(layers []layer.Ref, within string) string {
	name := within
	for _, l := range layers {
		name += "+" + string(l.ID)
	}
	return name
}

func (f *fakeStubs) Make(_ context.Context, layers []layer.Ref, _, within string) (string, error) {
	if f.err != nil {
		return "", f.err
	}
	f.made = append(f.made, f.Stack(layers, within))
	return "/trees/" + f.Stack(layers, within), nil
}

func (f *fakeStubs) Takes(string) (bool, error) { return !f.refuses, nil }

func (f *fakeStubs) Sweep(needed func() (map[string]bool, error)) (err error) {
	f.kept, err = needed()
	return err
}

func (f *fakeStubs) Used() (bool, error) { return true, nil }

// bench is a storage, to which it is told how layers come above lower roots.
type bench struct {
	*Storage
	*fakeStubs
	state string
	log   strings.Builder
}

func newBench(t *testing.T, how sandbox.Stacking) *bench {
	t.Helper()
	b := &bench{state: t.TempDir(), fakeStubs: &fakeStubs{}}
	var err error
	b.Storage, err = open(Options{StateDir: b.state, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	qt.Assert(t, qt.IsNil(err))
	b.stubs = b.fakeStubs
	b.try = func(string) (sandbox.Stacking, error) { return how, nil }
	return b
}

// wrote makes a directory with what an app wrote.
func wrote(t *testing.T, files ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "upper")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	for _, name := range files {
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600)))
	}
	return dir
}

// layer adds what an app wrote to the storage.
func (b *bench) layer(t *testing.T, below []layer.Ref, files ...string) []layer.Ref {
	t.Helper()
	added, ok, err := b.Add(t.Context(), Stack{Layers: below, Root: "/"}, wrote(t, files...), func([]string) bool { return true })
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(ok))
	qt.Assert(t, qt.IsNil(added.Layer.Place()))
	return added.All
}

var (
	directly = sandbox.Stacking{How: sandbox.Directly}
	byStubs  = sandbox.Stacking{How: sandbox.ByStubs, Within: "/state"}
	copied   = sandbox.Stacking{How: sandbox.Copied, Why: errors.New("the kernel is too old")}
)

func TestDirs(t *testing.T) {
	layers := []layer.Ref{{ID: "b"}, {ID: "a"}}
	for name, test := range map[string]struct {
		how    sandbox.Stacking
		layers []layer.Ref
		dirs   []string // below the state directory
	}{
		"no layers": {copied, nil, nil},
		"directly":  {directly, layers, []string{"layers/b/tree", "layers/a/tree"}},
		"by stubs":  {byStubs, layers, []string{"/trees//state/layers+b+a"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, test.how)
			stack := Stack{Layers: test.layers, Root: "/"}
			dirs, err := b.Dirs(t.Context(), stack)
			qt.Assert(t, qt.IsNil(err))
			for i := range dirs {
				dirs[i] = strings.TrimPrefix(dirs[i], b.state+"/")
			}
			qt.Assert(t, qt.DeepEquals(dirs, test.dirs))
			copies, err := b.Copies(t.Context(), stack)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.HasLen(copies, 0))
		})
	}
}

func TestUnstackable(t *testing.T) {
	noStubs := layer.ErrNoStubs
	for name, test := range map[string]struct {
		how   sandbox.Stacking
		stubs error // that making stubs returns
		err   string
		said  string // in the log
	}{
		"kernel":     {copied, nil, "the kernel is too old", "clones can't share files"},
		"attributes": {byStubs, noStubs, noStubs.Error(), "a clone can't share files"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, test.how)
			b.err = test.stubs
			stack := Stack{Layers: []layer.Ref{{ID: "a"}}, Root: "/"}
			_, err := b.Dirs(t.Context(), stack)
			qt.Assert(t, qt.ErrorIs(err, ErrUnstackable))
			qt.Assert(t, qt.ErrorMatches(err, test.err))
			copies, err := b.Copies(t.Context(), stack)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.DeepEquals(copies, []string{b.Layers.Path("a")}))
			qt.Assert(t, qt.Equals(strings.Count(b.log.String(), test.said), 1))
		})
	}
}

// Stubs that can't be made for another reason are no reason to copy.
func TestStubsFail(t *testing.T) {
	b := newBench(t, byStubs)
	b.err = os.ErrPermission
	_, err := b.Copies(t.Context(), Stack{Layers: []layer.Ref{{ID: "a"}}, Root: "/"})
	qt.Assert(t, qt.ErrorIs(err, os.ErrPermission))
	qt.Assert(t, qt.IsFalse(errors.Is(err, ErrUnstackable)))
}

func TestTriedOnce(t *testing.T) {
	b := newBench(t, directly)
	var tries atomic.Int32
	b.try = func(string) (sandbox.Stacking, error) {
		if tries.Add(1) == 1 {
			return sandbox.Stacking{}, os.ErrPermission
		}
		return directly, nil
	}
	_, err := b.stacking("/")
	qt.Assert(t, qt.ErrorIs(err, os.ErrPermission))
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			how, err := b.stacking("/")
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(how.How, sandbox.Directly))
		})
	}
	g.Wait()
	qt.Assert(t, qt.Equals(tries.Load(), 2))
	_, err = b.stacking("/srv")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(tries.Load(), 3))
}

// A trial of one lower root, which mounts, keeps nobody from asking for another.
func TestTrialsDoNotWaitForEachOther(t *testing.T) {
	b := newBench(t, directly)
	inside, goOn := make(chan struct{}), make(chan struct{})
	b.try = func(lower string) (sandbox.Stacking, error) {
		if lower == "/slow" {
			close(inside)
			<-goOn
		}
		return directly, nil
	}
	var g sync.WaitGroup
	g.Go(func() {
		_, err := b.stacking("/slow")
		qt.Check(t, qt.IsNil(err))
	})
	<-inside
	_, err := b.stacking("/")
	qt.Assert(t, qt.IsNil(err))
	close(goOn)
	g.Wait()
}

func TestAdd(t *testing.T) {
	for name, test := range map[string]struct {
		how     sandbox.Stacking
		files   []string
		fits    bool
		refuses bool
		ok      bool
	}{
		"directly":                {how: directly, files: []string{"f"}, fits: true, ok: true},
		"too many layers":         {how: directly, files: []string{"f"}},
		"by stubs":                {how: byStubs, files: []string{"f"}, ok: true},
		"what stubs can't have":   {how: byStubs, files: []string{"f"}, refuses: true},
		"not at all":              {how: copied, files: []string{"f"}, fits: true},
		"nothing since the last":  {how: directly, ok: true},
		"nothing, but not at all": {how: copied},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, test.how)
			b.refuses = test.refuses
			below := []layer.Ref{{ID: "below"}}
			upper := wrote(t, test.files...)
			added, ok, err := b.Add(t.Context(), Stack{Layers: below, Root: "/"}, upper, func(dirs []string) bool {
				qt.Check(t, qt.HasLen(dirs, 2))
				return test.fits
			})
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(ok, test.ok))
			switch {
			case !ok:
				return
			case len(test.files) == 0:
				qt.Assert(t, qt.IsNil(added.Layer))
				qt.Assert(t, qt.DeepEquals(added.All, below))
				return
			}
			qt.Assert(t, qt.HasLen(added.All, 2))
			qt.Assert(t, qt.Equals(added.All[1].ID, "below"))
			_, err = os.Stat(b.Layers.Path(added.All[0].ID)) // not before it is placed
			qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
			qt.Assert(t, qt.IsNil(added.Layer.Place()))
			_, err = os.Stat(filepath.Join(b.Layers.Path(added.All[0].ID), "f"))
			qt.Assert(t, qt.IsNil(err))
		})
	}
}
