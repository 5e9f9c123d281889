package checkpoint

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
)

// A saved app may be unable to come back: somebody has removed a file that it needs, or its
// images are damaged. Lists and details of apps, snapshots and templates tell that. They look
// at files by name, and read only manifests and, of an app with binds, images; `doctor` looks
// closer. No lock is held, and nothing is changed.

// Obstacles looks for all that is in the way of an app that was saved, and would be as spec
// says, above the layers. o says what is restored, and where, as far as that is known.
func (t *Tools) Obstacles(ctx context.Context, o restore.Options, spec *specs.Spec, layers []layer.Ref, depth snapshot.Depth) []error {
	if err := checkRootfs(spec); err != nil {
		return []error{err} // and so is no file of it
	}
	errs := t.Damage(ctx, o.Snapshot, o.Manifest, layers, depth)
	if o.Manifest.Processes == 0 {
		return errs // its program is started anew
	}
	o.HostFiles = t.HostFiles
	o.Place.Lower, o.Place.Binds = spec.Root.Path, bindsOf(spec)
	return append(errs, restore.Missing(ctx, o, depth)...)
}

func checkRootfs(spec *specs.Spec) error {
	dir := spec.Root.Path
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("the directory %s with the app's files is not there: put it back", dir)
	}
	return nil
}

// Damage looks at what snapctl itself has saved: images, memory files and layers.
func (t *Tools) Damage(ctx context.Context, from snapshot.Dir, m *snapshot.Manifest, layers []layer.Ref, depth snapshot.Depth) []error {
	errs := []error{from.Check(ctx, m, depth, t.Memory)}
	for _, l := range layers {
		errs = append(errs, t.Layers.Check(ctx, l, depth))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
