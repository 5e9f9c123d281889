// Package restorable tells what keeps saved apps from coming back: a file that was removed or
// changed, an image that is damaged, a file that no copy of an app could have. It tells that
// before anybody asks for the app, and changes nothing.
//
// An app is not to be ended by a snapshot of which no app could be made. Whatever `restore` would
// refuse and is known already has `snapshot --stop` refused, before the app is frozen where it
// can be seen by then. Without --stop it is a note: the app goes on, and what is in the way may
// be gone when the snapshot is needed.
package restorable

import (
	"context"
	"errors"
	"os"
	"path"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// Tools look at what was saved: the methods of [checkpoint.Tools] that a checker uses.
type Tools interface {
	Rehearse(ctx context.Context, s *checkpoint.Subject, from snapshot.Dir, m *snapshot.Manifest) error
	Damage(ctx context.Context, from snapshot.Dir, m *snapshot.Manifest, layers []layer.Ref, depth snapshot.Depth) []error
	Obstacles(ctx context.Context, o restore.Options, spec *specs.Spec, layers []layer.Ref, depth snapshot.Depth) []error
}

// App is what a checker asks of an app, as package engine has it.
type App interface {
	Read() (rec app.Record, op string)
	Status() app.Status
	Subject(accept ...preflight.Protection) *checkpoint.Subject
	Hibernation() snapshot.Dir // where the images of a held app are
	Root() string              // where the app's files are mounted
}

// Checker looks at held apps and at snapshots. Its methods may be called at the same time. They
// take no lock.
type Checker struct {
	Tools Tools
	Store *store.Store
}

// AppObstacles tells what keeps a held app from being woken now; nothing of one that is not held.
func (c *Checker) AppObstacles(ctx context.Context, a App, depth snapshot.Depth) []Obstacle {
	if rec, _ := a.Read(); rec.Status != app.Held {
		return nil
	}
	errs, err := c.Held(ctx, a, depth)
	if a.Status() != app.Held {
		return nil // it was woken meanwhile, and its images have gone
	}
	return ObstaclesOf(append(errs, err)...)
}

// SnapshotObstacles tells what keeps a snapshot from being restored or cloned now.
func (c *Checker) SnapshotObstacles(ctx context.Context, name string, depth snapshot.Depth) []Obstacle {
	dir, m, err := c.Store.Find(name)
	if err != nil {
		return ObstaclesOf(err)
	}
	return c.ManifestObstacles(ctx, dir, m, depth)
}

// ManifestObstacles does what SnapshotObstacles does after it has read the manifest.
func (c *Checker) ManifestObstacles(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest, depth snapshot.Depth) []Obstacle {
	rec, err := source.RecordOf(m)
	errs := []error{err}
	if err == nil {
		errs = c.Saved(ctx, restore.Options{Snapshot: dir, Manifest: m}, rec, depth)
	}
	if _, err := os.Lstat(string(dir)); errors.Is(err, os.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	return ObstaclesOf(errs...)
}

// Saved looks for all that is in the way of an app that was saved, and has, or would have, a
// record. The options say what is restored, and where, as far as that is known.
func (c *Checker) Saved(ctx context.Context, o restore.Options, rec *app.Record, depth snapshot.Depth) []error {
	o.AcceptChanged = rec.AcceptChanged
	return c.Tools.Obstacles(ctx, o, rec.Spec, rec.Layers, depth)
}

// Held looks for all that is in the way of a held app, as far as that can be told if its root is
// not mounted. It returns an error if it can't look.
func (c *Checker) Held(ctx context.Context, a App, depth snapshot.Depth) ([]error, error) {
	m, err := a.Hibernation().Manifest()
	if err != nil {
		return nil, err
	}
	rec, _ := a.Read()
	return c.Saved(ctx, restore.Options{Snapshot: a.Hibernation(), Manifest: m, Place: restore.Place{Root: a.Root()}}, &rec, depth), nil
}

// Rehearse looks for what would keep others from being made of a held app whose root is mounted:
// it does all that a restore does before there are processes. It returns an error if it can't
// look. The caller has the app's turn.
func (c *Checker) Rehearse(ctx context.Context, a App) ([]error, error) {
	m, err := a.Hibernation().Manifest()
	if err != nil {
		return nil, err
	}
	files, err := openfile.ReadSaved(ctx, a.Hibernation().Images())
	if err != nil {
		return nil, err
	}
	rec, _ := a.Read()
	errs := c.Tools.Damage(ctx, a.Hibernation(), m, rec.Layers, snapshot.BySize) // a rehearsal leaves memory out
	if err := template.CheckInstance(a.Root(), openfile.Names(files)); err != nil {
		errs = append(errs, app.Refuse(err))
	}
	return append(errs, flatten(c.Tools.Rehearse(ctx, a.Subject(), a.Hibernation(), m))...), nil
}

// Running looks at the processes of an app that runs, and whose files are below root, for what
// would keep others from being made of it, but for what preflight finds. It returns nil if
// nothing does.
func Running(root string, pids []int) error {
	var open []string
	for _, pid := range pids {
		open = append(open, openAt(pid, path.Base(template.InstancePath))...)
	}
	if err := template.CheckInstance(root, open); err != nil {
		return app.Refuse(err)
	}
	return nil
}

// openAt lists the files of a name that a process has open.
func openAt(pid int, base string) (names []string) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, _ := os.ReadDir(dir) // it may have ended
	for _, e := range entries {
		if name, err := os.Readlink(dir + "/" + e.Name()); err == nil && path.Base(name) == base {
			names = append(names, name)
		}
	}
	return names
}
