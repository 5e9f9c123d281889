package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
)

// sweepSoon has the memory files, storage layers and kept files of the host removed that nobody needs any
// more.
func (d *Daemon) sweepSoon() {
	select {
	case d.sweeps <- struct{}{}:
	default: // it is asked for already
	}
}

// sweep sweeps once, and then whenever it is asked to.
func (d *Daemon) sweep(ctx context.Context) {
	for {
		freed, err := d.memory.Sweep(func() (map[memory.ID]bool, error) {
			n, err := d.needed()
			return n.memory, err
		})
		more, lerr := d.layers.Sweep(func() (map[memory.ID]bool, error) {
			n, err := d.needed()
			return n.layers, err
		})
		files, ferr := d.hostFiles.Sweep(func() (map[memory.ID]bool, error) {
			n, err := d.needed()
			return n.files, err
		})
		if err := errors.Join(err, lerr, ferr, d.stubs.Sweep(d.neededStubs)); err != nil {
			d.log.ErrorContext(ctx, "remove what no app needs", slog.Any("error", err))
		}
		if freed += more + files; freed > 0 {
			d.log.DebugContext(ctx, "removed what no app needs", slog.Int64("freed_bytes", freed))
		}
		select {
		case <-d.sweeps:
		case <-ctx.Done():
			return
		}
	}
}

// needs names what snapshots, held apps and running processes need.
type needs struct{ memory, layers, files map[memory.ID]bool }

func newNeeds() needs {
	return needs{memory: make(map[memory.ID]bool), layers: make(map[memory.ID]bool), files: make(map[memory.ID]bool)}
}

func (n needs) add(files []memory.File, layers []snapshot.Layer, host []hostfile.File) {
	for _, f := range files {
		n.memory[f.ID] = true
	}
	for _, l := range layers {
		n.layers[l.ID] = true
	}
	for i := range host {
		n.files[host[i].ID] = true
	}
}

// needed asks all manifests and records. What can't be read may need anything:
// then the answer is an error.
func (d *Daemon) needed() (needs, error) {
	n := newNeeds()
	names, err := d.store.Names()
	if err != nil {
		return n, err
	}
	for _, name := range names {
		if err := d.addManifest(n, d.store.Dir(name)); err != nil {
			return n, err
		}
	}
	known := make(map[string]bool)
	for _, a := range d.apps.List() {
		rec, _ := a.Read()
		known[rec.DirName()] = true
		n.add(rec.Memory, rec.Layers, rec.HostFiles)
		if rec.Restacking != nil {
			n.layers[rec.Restacking.ID] = true
		}
		// The record of a held app names what its images need; one that is about
		// to be held may have images already.
		if rec.Status == app.Running || rec.Status == app.Stopped || rec.Status == app.Held && len(rec.Memory)+len(rec.HostFiles) > 0 {
			continue
		}
		if err := d.addManifest(n, a.hibernation()); err != nil {
			return n, err
		}
	}
	entries, err := os.ReadDir(d.appsDir())
	if err != nil {
		return n, fmt.Errorf("list apps: %w", err)
	}
	for _, e := range entries {
		if known[e.Name()] {
			continue
		}
		if _, err := app.Read(d.appDir(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("app %s: %w", e.Name(), err)
		}
		if err := d.addManifest(n, snapshot.Dir(filepath.Join(d.appDir(e.Name()), "hibernation"))); err != nil {
			return n, err
		}
	}
	return n, nil
}

// addManifest adds what a saved app needs; one that is not there needs nothing.
func (d *Daemon) addManifest(n needs, dir snapshot.Dir) error {
	m, err := dir.Manifest()
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(string(dir)); errors.Is(err, fs.ErrNotExist) {
			return nil // or it was removed meanwhile
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	n.add(m.MemoryFiles(), m.Layers, m.HostFiles)
	return nil
}
