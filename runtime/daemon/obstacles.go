package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

// A saved app may be unable to come back: somebody has removed a file that it needs, or its
// images are damaged. Lists and details of apps, snapshots and templates tell that. They look
// at files by name, and read only manifests and, of an app with binds, images; `doctor` looks
// closer. No lock is held, and nothing is changed.

// appObstacles tells what keeps a held app from being woken now; nothing of one that is
// not held.
func (d *Daemon) appObstacles(ctx context.Context, a *App, depth snapshot.Depth) []*api.Obstacle {
	rec, _ := a.read()
	if rec.Status != app.Held {
		return nil
	}
	from := a.hibernation()
	m, err := from.Manifest()
	errs := []error{err}
	if err == nil {
		errs = d.obstacles(ctx, restore.Options{Snapshot: from, Manifest: m, Place: restore.Place{Root: a.box.Root()}}, rec, depth)
	}
	if a.status() != app.Held {
		return nil // it was woken meanwhile, and its images have gone
	}
	return showObstacles(errs)
}

// snapshotObstacles tells what keeps a snapshot from being restored or cloned now.
func (d *Daemon) snapshotObstacles(ctx context.Context, name string, depth snapshot.Depth) []*api.Obstacle {
	dir, m, err := d.findSnapshot(name)
	if err != nil {
		return showObstacles([]error{err})
	}
	return d.manifestObstacles(ctx, dir, m, depth)
}

// manifestObstacles does what snapshotObstacles does after it has read the manifest.
func (d *Daemon) manifestObstacles(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest, depth snapshot.Depth) []*api.Obstacle {
	rec, err := recordOf(m)
	errs := []error{err}
	if err == nil {
		errs = d.obstacles(ctx, restore.Options{Snapshot: dir, Manifest: m}, *rec, depth)
	}
	if _, err := os.Lstat(string(dir)); errors.Is(err, os.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	return showObstacles(errs)
}

// obstacles looks for all that is in the way of an app that has, or would have, a record.
func (d *Daemon) obstacles(ctx context.Context, o restore.Options, rec app.Record, depth snapshot.Depth) []error {
	if err := checkRootfs(rec); err != nil {
		return []error{err} // and so is no file of it
	}
	errs := d.damage(ctx, o.Snapshot, o.Manifest, rec, depth)
	if o.Manifest.Processes == 0 {
		return errs // its program is started anew
	}
	o.HostFiles, o.AcceptChanged = d.hostFiles, rec.AcceptChanged
	o.Place.Lower, o.Place.Binds = rec.Spec.Root.Path, bindsOf(rec.Spec)
	return append(errs, restore.Missing(ctx, o, depth)...)
}

func checkRootfs(rec app.Record) error {
	dir := rec.Spec.Root.Path
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("the directory %s with the app's files is not there: put it back", dir)
	}
	return nil
}

// damage looks at what snapctl itself has saved: images, memory files and layers.
func (d *Daemon) damage(ctx context.Context, from snapshot.Dir, m *snapshot.Manifest, rec app.Record, depth snapshot.Depth) []error {
	errs := []error{from.Check(ctx, m, depth, d.memory)}
	for _, l := range rec.Layers {
		errs = append(errs, d.layers.Check(ctx, l, depth))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func showObstacles(errs []error) []*api.Obstacle {
	var all []*api.Obstacle
	for _, err := range errs {
		if err == nil || errors.Is(err, context.Canceled) {
			continue
		}
		if f, ok := errors.AsType[*restore.FileError](err); ok {
			all = append(all, &api.Obstacle{Path: f.Path, Reason: f.Reason, Remedy: f.Remedy})
			continue
		}
		if u, ok := errors.AsType[*preflight.UnsupportedError](err); ok {
			all = append(all, &api.Obstacle{Reason: u.Reason(), Remedy: u.Remedy})
			continue
		}
		all = append(all, &api.Obstacle{Reason: err.Error(), Remedy: hint(err)})
	}
	return all
}

func obstacleText(o *api.Obstacle) string {
	if o.GetRemedy() == "" {
		return o.GetReason()
	}
	return o.GetReason() + "; " + o.GetRemedy()
}

// parallelLooks is how many saved apps are looked at at the same time.
const parallelLooks = 4

// lookAtAll looks at many saved apps, several at the same time.
func lookAtAll(n int, look func(i int)) {
	var g errgroup.Group
	g.SetLimit(parallelLooks)
	for i := range n {
		g.Go(func() error {
			look(i)
			return nil
		})
	}
	_ = g.Wait() // there are no errors
}
