package engine

import (
	"context"
	"errors"
	"os"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
)

// Obstacle is something that keeps a saved app from coming back.
type Obstacle struct {
	Path   string // of the file that it is about, if it is about one
	Reason string
	Remedy string // may be empty
	// Err is the error, if that says no more than the reason; else nil.
	Err error
}

// ObstaclesOf are the obstacles of which errors tell. Errors may be nil.
func ObstaclesOf(errs ...error) []Obstacle {
	var all []Obstacle
	for _, err := range errs {
		if err == nil || errors.Is(err, context.Canceled) {
			continue
		}
		if f, ok := errors.AsType[*restore.FileError](err); ok {
			all = append(all, Obstacle{Path: f.Path, Reason: f.Reason, Remedy: f.Remedy})
			continue
		}
		if u, ok := errors.AsType[*preflight.UnsupportedError](err); ok {
			all = append(all, Obstacle{Reason: u.Reason(), Remedy: u.Remedy})
			continue
		}
		all = append(all, Obstacle{Reason: err.Error(), Err: err})
	}
	return all
}

// AppObstacles tells what keeps a held app from being woken now; nothing of one that is
// not held. No lock is held, and nothing is changed.
func (eng *Engine) AppObstacles(ctx context.Context, a *App, depth snapshot.Depth) []Obstacle {
	rec, _ := a.Read()
	if rec.Status != app.Held {
		return nil
	}
	from := a.Hibernation()
	m, err := from.Manifest()
	errs := []error{err}
	if err == nil {
		errs = eng.obstacles(ctx, restore.Options{Snapshot: from, Manifest: m, Place: restore.Place{Root: a.Box.Root()}}, rec, depth)
	}
	if a.Status() != app.Held {
		return nil // it was woken meanwhile, and its images have gone
	}
	return ObstaclesOf(errs...)
}

// SnapshotObstacles tells what keeps a snapshot from being restored or cloned now.
func (eng *Engine) SnapshotObstacles(ctx context.Context, name string, depth snapshot.Depth) []Obstacle {
	dir, m, err := eng.Store.Find(name)
	if err != nil {
		return ObstaclesOf(err)
	}
	return eng.ManifestObstacles(ctx, dir, m, depth)
}

// ManifestObstacles does what SnapshotObstacles does after it has read the manifest.
func (eng *Engine) ManifestObstacles(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest, depth snapshot.Depth) []Obstacle {
	rec, err := source.RecordOf(m)
	errs := []error{err}
	if err == nil {
		errs = eng.obstacles(ctx, restore.Options{Snapshot: dir, Manifest: m}, *rec, depth)
	}
	if _, err := os.Lstat(string(dir)); errors.Is(err, os.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	return ObstaclesOf(errs...)
}

// obstacles looks for all that is in the way of an app that was saved, and has, or would
// have, a record.
func (eng *Engine) obstacles(ctx context.Context, o restore.Options, rec app.Record, depth snapshot.Depth) []error {
	o.AcceptChanged = rec.AcceptChanged
	return eng.tools.Obstacles(ctx, o, rec.Spec, rec.Layers, depth)
}
