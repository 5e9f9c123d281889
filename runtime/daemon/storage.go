package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
)

// storages is how apps share files.
type storages struct {
	layers *snapshot.Layers
	stubs  *snapshot.Stubs
	tmpfs  string // that the stubs are on
	hidden []sandbox.HiddenDir
	// hostFiles are copies of the host's files, for apps that were saved with them.
	hostFiles *hostfile.Store

	mu    sync.Mutex
	known map[string]sandbox.Stacking // by lower root
}

// openStorage opens the layers, and the tmpfs for stubs, which outlives the daemon as
// the mounts of apps do.
func (d *Daemon) openStorage() error {
	layers, err := snapshot.OpenLayers(filepath.Join(d.opt.StateDir, "layers"))
	if err != nil {
		return err
	}
	files, err := hostfile.Open(filepath.Join(d.opt.StateDir, "files"))
	if err != nil {
		return err
	}
	if err := sandbox.SweepProbes(d.opt.StateDir); err != nil {
		return err
	}
	dir := filepath.Join(d.opt.RunDir, "stubs")
	if err := sandbox.MountStubs(dir); err != nil {
		return err
	}
	stubs, err := snapshot.OpenStubs(dir, layers)
	if err != nil {
		return err
	}
	hidden, err := sandbox.HiddenDirs(d.opt.StateDir, d.opt.RunDir)
	d.storages = storages{layers: layers, stubs: stubs, tmpfs: dir, hostFiles: files, hidden: hidden, known: make(map[string]sandbox.Stacking)}
	return err
}

// closeStorage unmounts the tmpfs if no app needs it.
func (s *storages) closeStorage() error {
	if s.stubs == nil {
		return nil
	}
	if used, err := s.stubs.Used(); err != nil || used {
		return err
	}
	return sandbox.UnmountStubs(s.tmpfs)
}

// stacking tells how layers come above a lower root. It is tried once.
func (d *Daemon) stacking(lower string) (sandbox.Stacking, error) {
	d.storages.mu.Lock()
	defer d.storages.mu.Unlock()
	if s, ok := d.known[lower]; ok {
		return s, nil
	}
	s, err := sandbox.Stack(lower, d.opt.StateDir)
	if err != nil {
		return s, err
	}
	if s.How == sandbox.Copied {
		d.log.Warn("clones can't share files", slog.String("root", lower), slog.Any("error", s.Why))
	}
	d.known[lower] = s
	return s, nil
}

// within is where the layers are in an app's lower root.
func within(s sandbox.Stacking) string { return filepath.Join(s.Within, "layers") }

// layerPaths are where storage layers are.
func (d *Daemon) layerPaths(layers []snapshot.Layer) []string {
	paths := make([]string, len(layers))
	for i, l := range layers {
		paths[i] = d.layers.Path(l.ID)
	}
	return paths
}

// lowerDirs are the directories between an app's own files and its lower root.
func (d *Daemon) lowerDirs(ctx context.Context, rec app.Record) ([]string, error) {
	if len(rec.Layers) == 0 {
		return nil, nil
	}
	s, err := d.stacking(rec.Spec.Root.Path)
	if err != nil {
		return nil, err
	}
	switch s.How {
	case sandbox.Directly:
		return d.layerPaths(rec.Layers), nil
	case sandbox.ByStubs:
		tree, err := d.stubs.Make(ctx, rec.Layers, rec.Spec.Root.Path, within(s))
		return []string{tree}, err
	case sandbox.Copied:
	}
	return nil, fmt.Errorf("app %s shares files: %w", rec.Name, s.Why)
}

// unstackable takes the layers out of a record that can't be below the app's own
// files and must be copied there: it returns where they are.
func (d *Daemon) unstackable(ctx context.Context, rec *app.Record) ([]string, error) {
	if len(rec.Layers) == 0 {
		return nil, nil
	}
	s, err := d.stacking(rec.Spec.Root.Path)
	if err != nil {
		return nil, err
	}
	switch s.How {
	case sandbox.Directly:
		return nil, nil
	case sandbox.ByStubs:
		_, err := d.stubs.Make(ctx, rec.Layers, rec.Spec.Root.Path, within(s))
		if err == nil || !errors.Is(err, snapshot.ErrNoStubs) {
			return nil, err
		}
		d.log.WarnContext(ctx, "a clone can't share files", slog.Any("error", err))
	case sandbox.Copied:
	}
	paths := d.layerPaths(rec.Layers)
	rec.Layers = nil
	return paths, nil
}

// relink keeps files of several names in the layers of a new app one file each.
func (d *Daemon) relink(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	names, err := d.layers.Linked(rec.Layers)
	if err != nil {
		return err
	}
	return snapshot.Relink(ctx, a.box.Root(), names)
}

// neededStubs names the trees that apps have or are going to have mounted.
func (d *Daemon) neededStubs() (map[string]bool, error) {
	needed := make(map[string]bool)
	for _, a := range d.apps.List() {
		rec, _ := a.Read()
		if len(rec.Layers) == 0 || rec.Status == app.Stopped {
			continue
		}
		s, err := d.stacking(rec.Spec.Root.Path)
		if err != nil {
			return nil, err
		}
		if s.How != sandbox.ByStubs {
			continue
		}
		needed[d.stubs.Stack(rec.Layers, within(s))] = true
		if rec.Restacking != nil {
			needed[d.stubs.Stack(slices.Insert(slices.Clone(rec.Layers), 0, *rec.Restacking), within(s))] = true
		}
	}
	return needed, nil
}
