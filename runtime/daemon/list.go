package daemon

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/doctor"
	"github.com/snapctl/snapctl/snapshot"
)

// list returns all apps, ordered by name.
func (d *Daemon) list() []*App {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*App, 0, len(d.apps))
	for _, a := range d.apps {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *App) int { return strings.Compare(a.Name(), b.Name()) })
	return all
}

func (d *Daemon) removeSnapshot(name string) error {
	if err := snapshot.ValidateName(name); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	free, err := d.doom(name)
	if err != nil {
		return err
	}
	defer free()
	defer d.sweepSoon()
	return d.snapshotDir(name).Remove()
}

// doom reserves the name of a snapshot that is to be removed, so that nobody makes a template
// of the snapshot meanwhile.
func (d *Daemon) doom(name string) (free func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := os.Lstat(string(d.snapshotDir(name))); err != nil || d.names[name] {
		return nil, fmt.Errorf("snapshot %s: %w", name, errdefs.ErrNotFound)
	}
	if err := d.beingRestored(name); err != nil {
		return nil, err
	}
	if t := d.usedBy(name); t != "" {
		return nil, refusef("snapshot %s is needed: template %s is made of it; remove that first", name, t)
	}
	d.names[name] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.names, name)
	}, nil
}

// restoring keeps a snapshot from being removed while an app is made of it, until free
// is called, once or more: CRIU opens its images one after the other.
func (d *Daemon) restoring(name string) (free func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] {
		return nil, fmt.Errorf("snapshot %s: %w", name, errdefs.ErrNotFound)
	}
	d.restores[name]++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.restores[name]--; d.restores[name] == 0 {
			delete(d.restores, name)
		}
	}), nil
}

// beingRestored returns an error if a snapshot can't be removed because an app is made
// of it.
//
// The caller holds d.mu.
func (d *Daemon) beingRestored(name string) error {
	if d.restores[name] > 0 {
		return refusef("snapshot %s is needed: an app is being restored from it; try again when that is done", name)
	}
	return nil
}

// origin says where snapshots of this daemon come from.
func (d *Daemon) origin() snapshot.Origin {
	return snapshot.Origin{Kernel: doctor.Kernel(), Arch: runtime.GOARCH, CRIUVersion: d.criuVersion}
}

// heldInodes names the sockets that are held of an app; not to be changed.
func (a *App) heldInodes() map[uint64]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.inodes
}
