package restorable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// fakeTools find what a test says, and note what they were asked.
type fakeTools struct {
	found, damage []error
	rehearsal     error
	asked         restore.Options
	during        func()
}

var _ Tools = (*fakeTools)(nil)

func (f *fakeTools) Rehearse(context.Context, *checkpoint.Subject, snapshot.Dir, *snapshot.Manifest) error {
	return f.rehearsal
}

func (f *fakeTools) Damage(context.Context, snapshot.Dir, *snapshot.Manifest, []layer.Ref, snapshot.Depth) []error {
	return f.damage
}

func (f *fakeTools) Obstacles(_ context.Context, o restore.Options, _ *specs.Spec, _ []layer.Ref, _ snapshot.Depth) []error {
	f.asked = o
	if f.during != nil {
		f.during()
	}
	return f.found
}

// fakeApp has a record and images, and no process.
type fakeApp struct {
	*app.App
	images snapshot.Dir
	root   string
}

var _ App = (*fakeApp)(nil)

func (f *fakeApp) Subject(...preflight.Protection) *checkpoint.Subject { return nil }
func (f *fakeApp) Hibernation() snapshot.Dir                           { return f.images }
func (f *fakeApp) Root() string                                        { return f.root }

// held is an app that is held, whose images are there.
func held(t *testing.T) *fakeApp {
	t.Helper()
	dir := t.TempDir()
	f := &fakeApp{images: snapshot.Dir(filepath.Join(dir, "hibernation")), root: t.TempDir()}
	f.App = app.New(dir, t.TempDir(), app.Record{Identity: app.Identity{Name: "cache"}, State: app.State{Status: app.Held}})
	f.Amend(func(rec *app.Record) { rec.AcceptChanged = true })
	write(t, f.images, "10.77.0.7")
	return f
}

// write writes a snapshot of an app that has this endpoint for itself.
func write(t *testing.T, to snapshot.Dir, endpoint string) *snapshot.Manifest {
	t.Helper()
	partial, err := snapshot.Begin(string(to))
	qt.Assert(t, qt.IsNil(err))
	m := &snapshot.Manifest{
		Name: filepath.Base(string(to)), App: "cache", Address: snapshot.Address{Endpoint: endpoint},
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	}
	m.Processes = 1
	_, err = partial.Commit(t.Context(), m)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(partial.Discard()))
	return m
}

// texts are the reasons of obstacles.
func texts(all []Obstacle) (reasons []string) {
	for _, o := range all {
		reasons = append(reasons, o.Reason)
	}
	return reasons
}

func TestObstaclesOfAnApp(t *testing.T) {
	f := &fakeTools{found: []error{errors.New("a layer is missing"), errors.New("a file was changed")}}
	c := &Checker{Tools: f}
	a := held(t)
	qt.Check(t, qt.DeepEquals(texts(c.AppObstacles(t.Context(), a, snapshot.BySize)), []string{"a layer is missing", "a file was changed"}))
	qt.Check(t, qt.IsTrue(f.asked.AcceptChanged))
	qt.Check(t, qt.Equals(f.asked.Place.Root, a.root))
	qt.Check(t, qt.Equals(f.asked.Snapshot, a.images))

	f.during = func() { a.Amend(func(rec *app.Record) { rec.Status = app.Running }) } // it is woken meanwhile
	qt.Check(t, qt.HasLen(c.AppObstacles(t.Context(), a, snapshot.BySize), 0))
	f.during = nil
	qt.Check(t, qt.HasLen(c.AppObstacles(t.Context(), a, snapshot.BySize), 0)) // it runs

	a.Amend(func(rec *app.Record) { rec.Status = app.Held })
	qt.Assert(t, qt.IsNil(a.images.Remove()))
	qt.Check(t, qt.HasLen(c.AppObstacles(t.Context(), a, snapshot.BySize), 1))
}

func TestObstaclesOfASnapshot(t *testing.T) {
	dir := t.TempDir()
	opt := store.Options{Dir: filepath.Join(dir, "snapshots"), Freed: func() {}}
	var errs [4]error
	opt.Memory, errs[0] = memory.Open(filepath.Join(dir, "memory"))
	opt.Layers, errs[1] = layer.Open(filepath.Join(dir, "layers"))
	opt.HostFiles, errs[2] = hostfile.Open(filepath.Join(dir, "files"))
	f := &fakeTools{found: []error{errors.New("a layer is missing")}}
	c := &Checker{Tools: f}
	c.Store, errs[3] = store.Open(opt)
	qt.Assert(t, qt.IsNil(errors.Join(errs[:]...)))

	good := c.Store.Dir("good")
	m := write(t, good, "10.77.0.7")
	qt.Check(t, qt.DeepEquals(texts(c.SnapshotObstacles(t.Context(), "good", snapshot.BySize)), []string{"a layer is missing"}))
	qt.Check(t, qt.Equals(f.asked.Snapshot, good))
	f.during = func() { qt.Check(t, qt.IsNil(good.Remove())) } // meanwhile
	qt.Check(t, qt.HasLen(c.ManifestObstacles(t.Context(), good, m, snapshot.BySize), 0))
	f.during = nil
	all := c.SnapshotObstacles(t.Context(), "good", snapshot.BySize)
	qt.Assert(t, qt.HasLen(all, 1))
	qt.Check(t, qt.ErrorIs(all[0].Err, errdefs.ErrNotFound))

	write(t, c.Store.Dir("bad"), "10.77.0.7")
	m.Endpoint = "nowhere"
	all = c.ManifestObstacles(t.Context(), c.Store.Dir("bad"), m, snapshot.BySize)
	qt.Assert(t, qt.HasLen(all, 1))
	qt.Check(t, qt.ErrorMatches(all[0].Err, "endpoint: .*"))
}

// A rehearsal tells each thing that is in the way, and what it can't look at is an error.
func TestRehearsal(t *testing.T) {
	one, two, three := errors.New("memory is damaged"), errors.New("a path leads elsewhere"), errors.New("a file is gone")
	c := &Checker{Tools: &fakeTools{damage: []error{one}, rehearsal: errors.Join(two, three)}}
	a := held(t)
	found, err := c.Rehearse(t.Context(), a)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(texts(ObstaclesOf(found...)), []string{one.Error(), two.Error(), three.Error()}))
	qt.Assert(t, qt.IsNil(a.images.Remove()))
	_, err = c.Rehearse(t.Context(), a)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// An app in which the file that tells copies who they are can't be written can't be copied.
func TestRunningApp(t *testing.T) {
	root := t.TempDir()
	qt.Check(t, qt.IsNil(Running(root, []int{os.Getpid()})))
	qt.Assert(t, qt.IsNil(os.MkdirAll(root+template.InstancePath, 0o700)))
	err := Running(root, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.ErrorMatches(err, ".* can't be written: /run/snapctl/instance.json is something else: remove it"))

	f, err := os.Create(filepath.Join(t.TempDir(), "instance.json"))
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	qt.Check(t, qt.DeepEquals(openAt(os.Getpid(), "instance.json"), []string{f.Name()}))
	qt.Check(t, qt.HasLen(openAt(os.Getpid(), "another.json"), 0))
}

func TestFlatten(t *testing.T) {
	one, two, three := errors.New("one"), errors.New("two"), errors.New("three")
	told := fmt.Errorf("while looking: %w, %w", one, two) // says more than its parts
	for _, test := range []struct {
		err  error
		want []error
	}{
		{nil, nil},
		{one, []error{one}},
		{errors.Join(one, errors.Join(two, three)), []error{one, two, three}},
		{errors.Join(told, three), []error{told, three}},
	} {
		got := flatten(test.err)
		qt.Assert(t, qt.HasLen(got, len(test.want)))
		for i := range got {
			qt.Check(t, qt.Equals(got[i], test.want[i]))
		}
	}
}

func TestObstaclesAreToldByTheirKind(t *testing.T) {
	plain := errors.New("a layer is missing")
	got := ObstaclesOf(nil, context.Canceled, &restore.FileError{Path: "/srv/data", Reason: "it is gone", Remedy: "put it back"}, plain)
	qt.Assert(t, qt.HasLen(got, 2))
	qt.Check(t, qt.Equals(got[0], Obstacle{Path: "/srv/data", Reason: "it is gone", Remedy: "put it back"}))
	qt.Check(t, qt.Equals(got[1], Obstacle{Reason: "a layer is missing", Err: plain}))
}
