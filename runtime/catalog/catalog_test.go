package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/journal/journaltest"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/store"
)

// bench is a catalog on a disk of its own, with the store of its snapshots.
type bench struct {
	*Catalog
	log bytes.Buffer
}

func open(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	opt := store.Options{Dir: filepath.Join(dir, "snapshots"), Freed: func() {}}
	var err [4]error
	opt.Memory, err[0] = memory.Open(filepath.Join(dir, "memory"))
	opt.Layers, err[1] = layer.Open(filepath.Join(dir, "layers"))
	opt.HostFiles, err[2] = hostfile.Open(filepath.Join(dir, "files"))
	snapshots, serr := store.Open(opt)
	err[3] = serr
	qt.Assert(t, qt.IsNil(errors.Join(err[:]...)))
	b := &bench{}
	b.Catalog, serr = Open(t.Context(), Options{Dir: filepath.Join(dir, "templates"), Store: snapshots, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	qt.Assert(t, qt.IsNil(serr))
	return b
}

// again is the catalog that the next daemon opens.
func (b *bench) again(t *testing.T) *bench {
	t.Helper()
	next := &bench{}
	snapshots, err := store.Open(store.Options{Dir: filepath.Dir(string(b.opt.Store.Dir("s"))), Freed: func() {}})
	qt.Assert(t, qt.IsNil(err))
	next.Catalog, err = Open(t.Context(), Options{Dir: b.opt.Dir, Store: snapshots, Log: slog.New(slog.NewTextHandler(&next.log, nil))})
	qt.Assert(t, qt.IsNil(err))
	return next
}

// make makes a template of a snapshot.
func (b *bench) make(t *testing.T, name, of string) *Template {
	t.Helper()
	draft, err := b.Begin(name, of, "")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(draft.Commit()))
	return draft.Add()
}

func (b *bench) names() []string {
	names := []string{}
	for _, t := range b.List() {
		names = append(names, t.Name)
	}
	return names
}

func (b *bench) mkdir(t *testing.T, snapshotName string) {
	t.Helper()
	qt.Assert(t, qt.IsNil(os.Mkdir(string(b.opt.Store.Dir(snapshotName)), 0o700)))
}

func (b *bench) isThere(snapshotName string) bool {
	_, err := os.Lstat(string(b.opt.Store.Dir(snapshotName)))
	return err == nil
}

func none() []string            { return nil }
func noNumbers() map[int]string { return nil }

func TestMakeAndRemove(t *testing.T) {
	b := open(t)
	made, second := b.make(t, "web", "s"), b.make(t, "cache", "s")
	qt.Check(t, qt.DeepEquals(b.names(), []string{"cache", "web"}))
	got, err := b.Get("web")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got, made))
	_, err = b.Get("none")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	_, err = b.Get("..")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))

	qt.Assert(t, qt.IsNil(b.SetReady(t.Context(), second, 3)))
	b.mkdir(t, "s")
	qt.Check(t, qt.ErrorIs(b.opt.Store.Remove("s"), errdefs.ErrFailedPrecondition))
	qt.Assert(t, qt.IsNil(b.Remove(t.Context(), made, none)))
	qt.Check(t, qt.IsTrue(b.isThere("s"))) // somebody's
	qt.Check(t, qt.ErrorIs(b.Remove(t.Context(), made, none), errdefs.ErrNotFound))
	qt.Check(t, qt.ErrorIs(b.SetReady(t.Context(), made, 1), errdefs.ErrNotFound))
	qt.Check(t, qt.IsFalse(b.Has(made)))
	qt.Check(t, qt.Equals(b.Ready(made), 0))

	next := b.again(t)
	qt.Check(t, qt.DeepEquals(next.names(), []string{"cache"}))
	loaded, err := next.Get("cache")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(next.Ready(loaded), 3))
	qt.Check(t, qt.IsTrue(loaded.CreatedAt.Equal(second.CreatedAt)))
	qt.Check(t, qt.ErrorMatches(next.opt.Store.Remove("s"), "snapshot s is needed: template cache is made of it; remove that first"))
	qt.Assert(t, qt.IsNil(next.Remove(t.Context(), loaded, none)))
	qt.Check(t, qt.IsNil(next.opt.Store.Remove("s")))
}

func TestBeginRefuses(t *testing.T) {
	b := open(t)
	b.make(t, "there", "s")
	draft, err := b.Begin("being-made", "s", "")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(b.file("half"), nil, 0o600)))
	_, free, err := b.opt.Store.Reserve("written", "app")
	qt.Assert(t, qt.IsNil(err))
	defer free()
	for name, test := range map[string]struct {
		name, of, rules string
		is              error
		says            string
	}{
		"name":       {"../t", "s", "", errdefs.ErrInvalidArgument, ".*"},
		"rules":      {"t", "s", "hostnam: x", errdefs.ErrInvalidArgument, `(?s)rules: .*unknown key.*`},
		"can't":      {"t", "s", "connections: {inbound: keep}", errdefs.ErrNotImplemented, "rules: connections: keep: .*"},
		"there":      {"there", "s", "", errdefs.ErrAlreadyExists, "template there: already exists"},
		"being made": {"being-made", "s", "", errdefs.ErrAlreadyExists, "template being-made: already exists"},
		"half":       {"half", "s", "", errdefs.ErrAlreadyExists, "template half: already exists: it is half removed, or can't be read; remove .*"},
		"written":    {"t", "written", "", errdefs.ErrNotFound, "snapshot written: not found: it is being written or removed"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // what was reserved is given back
				_, err := b.Begin(test.name, test.of, test.rules)
				qt.Check(t, qt.ErrorIs(err, test.is))
				qt.Check(t, qt.ErrorMatches(err, test.says))
			}
		})
	}
	qt.Assert(t, qt.IsNil(draft.Drop()))
	b.make(t, "being-made", "s")
}

// Nobody removes the snapshot of a template that is being made, from the moment on
// in which it is there. It goes with the template.
func TestOwnSnapshot(t *testing.T) {
	b := open(t)
	draft, err := b.Begin("t", "", "")
	qt.Assert(t, qt.IsNil(err))
	b.mkdir(t, "t")
	qt.Check(t, qt.ErrorMatches(b.opt.Store.Remove("t"), "snapshot t is needed: template t is made of it; remove that first"))
	qt.Assert(t, qt.IsNil(draft.Owns()))
	qt.Assert(t, qt.IsNil(draft.Drop()))
	qt.Check(t, qt.IsFalse(b.isThere("t")))
	qt.Check(t, qt.HasLen(b.again(t).names(), 0))

	draft, err = b.Begin("t", "", "")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(draft.Owns()))
	b.mkdir(t, "t")
	qt.Assert(t, qt.IsNil(draft.Commit()))
	made := draft.Add()
	claim, err := b.opt.Store.Claim("t", store.Reason{Why: "an app is being restored from it", Remedy: "try again when that is done"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.ErrorMatches(b.Remove(t.Context(), made, none), "snapshot t is needed: an app is being restored from it; try again when that is done"))
	claim.Release()
	_, free, err := b.Use(made, 1, Number{}, noNumbers) // it is as it was
	qt.Assert(t, qt.IsNil(err))
	free()
	qt.Assert(t, qt.IsNil(b.Remove(t.Context(), made, none)))
	qt.Check(t, qt.IsFalse(b.isThere("t")))
}

// A daemon that is killed while it makes a template or removes one leaves half of it.
func TestHalfATemplateGoes(t *testing.T) {
	b := open(t)
	draft, err := b.Begin("t", "", "")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(draft.Owns()))
	b.mkdir(t, "t")
	b.mkdir(t, "u")
	qt.Assert(t, qt.IsNil(b.write(newTemplate(record{Name: "u", Snapshot: "u"}), record{Half: true})))
	qt.Assert(t, qt.IsNil(os.WriteFile(b.file("v")+".new", nil, 0o600)))
	next := b.again(t)
	qt.Check(t, qt.HasLen(next.names(), 0))
	qt.Check(t, qt.IsFalse(next.isThere("t")))
	qt.Check(t, qt.IsTrue(next.isThere("u"))) // it was not the template's own
	left, err := os.ReadDir(b.opt.Dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(left, 0))
	qt.Check(t, qt.IsNil(next.opt.Store.Remove("u")))
}

func TestInUse(t *testing.T) {
	b := open(t)
	made := b.make(t, "t", "s")
	numbers, free, err := b.Use(made, 2, Number{}, noNumbers)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(numbers, []int{1, 2}))
	err = b.Remove(t.Context(), made, none)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.ErrorMatches(err, "template t is needed: clones are being made of it; try again when that is done"))
	free()

	err = b.Remove(t.Context(), made, func() []string { return []string{"t-1", "t-2"} })
	qt.Check(t, qt.ErrorMatches(err, "template t has clones: t-1, t-2; remove them first"))
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprintf("t-%d", i)
	}
	err = b.Remove(t.Context(), made, func() []string { return many })
	qt.Check(t, qt.ErrorMatches(err, "template t has clones: t-0, .*, t-14 and 2 others; remove them first"))

	// Clones that a request made while it was found that there are none.
	asked := 0
	err = b.Remove(t.Context(), made, func() []string {
		if asked++; asked == 1 {
			return nil
		}
		_, _, err := b.Use(made, 1, Number{}, noNumbers)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound)) // it is about to go
		return []string{"t-1"}
	})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.IsTrue(b.Has(made)))
	_, free, err = b.Use(made, 1, Number{}, noNumbers)
	qt.Assert(t, qt.IsNil(err))
	free()
}

func TestNumbers(t *testing.T) {
	b := open(t)
	made := b.make(t, "t", "s")
	there := func() map[int]string { return map[int]string{2: "t-2", 7: "x"} }
	far, freeFar, err := b.Use(made, 1, Number{Least: 20}, there)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(far, []int{20}))
	freeFar()
	one, freeOne, err := b.Use(made, 2, Number{Least: 3}, there)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(one, []int{8, 9}))
	two, freeTwo, err := b.Use(made, 1, Number{}, there)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(two, []int{10}))
	_, _, err = b.Use(made, 2, Number{First: 6}, there)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorMatches(err, "clone 7 of template t: already exists: x; choose another number to start from"))
	_, _, err = b.Use(made, 1, Number{First: 9}, there)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	freeOne()
	freeTwo()
	again, free, err := b.Use(made, 1, Number{First: 9}, there)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(again, []int{9}))
	free()
}

// A request that ends after the apps were listed has made a clone that the list lacks.
func TestNumbersOfARequestThatHasJustEnded(t *testing.T) {
	b := open(t)
	made := b.make(t, "t", "s")
	clones := map[int]string{}
	first, end, err := b.Use(made, 1, Number{}, noNumbers)
	qt.Assert(t, qt.IsNil(err))
	asked := 0
	second, free, err := b.Use(made, 1, Number{}, func() map[int]string {
		list := maps.Clone(clones)
		if asked++; asked == 1 {
			clones[first[0]] = "t-1"
			end()
		}
		return list
	})
	qt.Assert(t, qt.IsNil(err))
	defer free()
	qt.Check(t, qt.Equals(asked, 2))
	qt.Check(t, qt.DeepEquals(second, []int{2}))
}

func TestInspectOnce(t *testing.T) {
	b := open(t)
	made := b.make(t, "t", "s")
	broken := errors.New("broken")
	_, err := made.Inspect(t.Context(), func(context.Context) (*inspect.Info, error) { return nil, broken })
	qt.Check(t, qt.ErrorIs(err, broken))
	qt.Check(t, qt.IsNil(made.Known()))
	info := &inspect.Info{Files: []inspect.File{{Name: "/data"}, {Name: "/gone", Removed: true}, {Name: "/outside", External: true}, {Name: "pipe:[1]"}}}
	found, err := made.Inspect(t.Context(), func(context.Context) (*inspect.Info, error) { return info, nil })
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(found.Open, []string{"/data"}))
	again, err := made.Inspect(t.Context(), func(context.Context) (*inspect.Info, error) { return nil, broken })
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again, found))
	qt.Check(t, qt.Equals(made.Known(), found))
}

func TestLoad(t *testing.T) {
	for name, test := range map[string]struct{ record, err string }{
		"whole":         {`{"version": 1, "name": "t", "snapshot": "s"}`, ""},
		"other version": {`{"version": 2, "name": "t", "snapshot": "s"}`, "version 2, this snapctld reads 1"},
		"other name":    {`{"version": 1, "name": "u", "snapshot": "s"}`, `it is of template \"u\"`},
		"no snapshot":   {`{"version": 1, "name": "t"}`, `its snapshot is \"\"`},
		"leads out":     {`{"version": 1, "name": "t", "snapshot": "../mine", "own": true, "half": true}`, `its snapshot is \"../mine\"`},
		"cut off":       {`{"version": 1, "name": "t", "snaps`, "unexpected end of JSON input"},
		"bad rules":     {`{"version": 1, "name": "t", "snapshot": "s", "rules_yaml": "hostnam: x"}`, "unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			mine := filepath.Join(filepath.Dir(b.opt.Dir), "mine")
			qt.Assert(t, qt.IsNil(os.Mkdir(mine, 0o700)))
			qt.Assert(t, qt.IsNil(os.WriteFile(b.file("t"), []byte(test.record), 0o600)))
			next := b.again(t)
			qt.Check(t, qt.Equals(len(next.names()) == 1, test.err == ""))
			qt.Check(t, qt.Equals(next.log.Len() == 0, test.err == ""))
			qt.Check(t, qt.IsTrue(strings.Contains(strings.ReplaceAll(next.log.String(), `\\`, `\`), test.err)), qt.Commentf("%s", next.log.String()))
			for _, path := range []string{mine, b.file("t")} {
				_, err := os.Stat(path)
				qt.Assert(t, qt.IsNil(err))
			}
		})
	}
}

// TestDamaged flips each bit of a template's record: either what it says is the
// same, or it is not read.
func TestDamaged(t *testing.T) {
	b := open(t)
	qt.Assert(t, qt.IsNil(b.write(newTemplate(record{Name: "t", Snapshot: "s", Rules: "{}"}), record{Pool: 4})))
	journaltest.FlipAll(t, b.file("t"), func() (any, error) {
		clear(b.templates)
		if err := b.load("t"); err != nil {
			return nil, err
		}
		t := b.templates["t"]
		return record{Name: t.Name, CreatedAt: t.CreatedAt, Snapshot: t.Snapshot, Own: t.Own, Rules: t.RulesText, Pool: t.ready}, nil
	})
}
