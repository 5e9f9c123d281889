package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
)

// A saved app may be unable to come back: somebody has removed a file that it needs, or its
// images are damaged. Lists and details of apps, snapshots and templates tell that. They look
// at files by name, and read only manifests and, of an app with binds, images; `doctor` looks
// closer. No lock is held, and nothing is changed.

// obstacles looks for all that is in the way of an app that has, or would have, a record.
func (d *Daemon) obstacles(ctx context.Context, o restore.Options, rec app.Record, depth snapshot.Depth) []error {
	if err := checkRootfs(rec); err != nil {
		return []error{err} // and so is no file of it
	}
	errs := d.damage(ctx, o.Snapshot, o.Manifest, rec, depth)
	if o.Manifest.Processes == 0 {
		return errs // its program is started anew
	}
	o.HostFiles, o.AcceptChanged = d.storage.HostFiles, rec.AcceptChanged
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
	errs := []error{from.Check(ctx, m, depth, d.storage.Memory)}
	for _, l := range rec.Layers {
		errs = append(errs, d.storage.Layers.Check(ctx, l, depth))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
