package daemon

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

// appObstacles tells what keeps a held app from being woken now; nothing of one that is
// not held.
func (srv *server) appObstacles(ctx context.Context, a *App, depth snapshot.Depth) []*api.Obstacle {
	rec, _ := a.Read()
	if rec.Status != app.Held {
		return nil
	}
	from := a.hibernation()
	m, err := from.Manifest()
	errs := []error{err}
	if err == nil {
		errs = srv.d.obstacles(ctx, restore.Options{Snapshot: from, Manifest: m, Place: restore.Place{Root: a.box.Root()}}, rec, depth)
	}
	if a.Status() != app.Held {
		return nil // it was woken meanwhile, and its images have gone
	}
	return showObstacles(errs)
}

// snapshotObstacles tells what keeps a snapshot from being restored or cloned now.
func (srv *server) snapshotObstacles(ctx context.Context, name string, depth snapshot.Depth) []*api.Obstacle {
	dir, m, err := srv.d.store.Find(name)
	if err != nil {
		return showObstacles([]error{err})
	}
	return srv.manifestObstacles(ctx, dir, m, depth)
}

// manifestObstacles does what snapshotObstacles does after it has read the manifest.
func (srv *server) manifestObstacles(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest, depth snapshot.Depth) []*api.Obstacle {
	rec, err := recordOf(m)
	errs := []error{err}
	if err == nil {
		errs = srv.d.obstacles(ctx, restore.Options{Snapshot: dir, Manifest: m}, *rec, depth)
	}
	if _, err := os.Lstat(string(dir)); errors.Is(err, os.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	return showObstacles(errs)
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
