package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/doctor"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/image"
)

// list returns all apps, ordered by name.
func (d *Daemon) list() []*App {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*App, 0, len(d.apps))
	for _, a := range d.apps {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *App) int { return strings.Compare(a.name(), b.name()) })
	return all
}

// snapshots lists the committed snapshots by name. One that can't be read is
// listed by its name, and with what is wrong with it.
func (d *Daemon) snapshots(ctx context.Context) ([]*api.Snapshot, error) {
	entries, err := os.ReadDir(d.snapshotsDir())
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return snapshot.ValidateName(e.Name()) != nil })
	all := make([]*api.Snapshot, len(entries))
	lookAtAll(len(entries), func(i int) {
		dir, m, err := d.findSnapshot(entries[i].Name())
		switch {
		case errdefs.IsNotFound(err): // it was removed meanwhile
		case err != nil:
			all[i] = &api.Snapshot{Name: entries[i].Name(), WouldNotStart: showObstacles([]error{err})}
		default:
			all[i] = showSnapshot(m)
			all[i].WouldNotStart = d.manifestObstacles(ctx, dir, m, snapshot.BySize)
		}
	})
	return slices.DeleteFunc(all, func(s *api.Snapshot) bool { return s == nil }), nil
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

// Inspect implements the API. A held app's images are inspected by its name, if
// no snapshot has it.
func (d *Daemon) Inspect(ctx context.Context, req *api.InspectRequest) (*api.InspectResponse, error) {
	dir, m, err := d.findSnapshot(req.GetSnapshot())
	var held *App
	if errdefs.IsNotFound(err) {
		a, aerr := d.find(req.GetSnapshot())
		if aerr != nil {
			return nil, err
		}
		held, dir = a, a.hibernation()
		if m, err = dir.Manifest(); errors.Is(err, os.ErrNotExist) {
			err = refusef("app %s has no images: it is %s", req.GetSnapshot(), a.status())
		}
	}
	if err != nil {
		return nil, err
	}
	info := &image.Info{ // of an app that had ended: arrays are never null
		Processes: []image.Process{}, Files: []image.File{}, Sockets: []image.Socket{}, Hosts: []image.Host{}, IPC: []image.IPC{},
		Mounts: []image.Mount{}, Netns: []image.Netns{}, Images: []image.ImageFile{},
	}
	if m.Processes > 0 {
		if info, err = image.Inspect(ctx, dir.Images(), m.BaseNames()...); err != nil {
			return nil, err
		}
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	shown := showSnapshot(m)
	if held != nil {
		shown.WouldNotStart = d.appObstacles(ctx, held, snapshot.BySize)
	} else {
		shown.WouldNotStart = d.manifestObstacles(ctx, dir, m, snapshot.BySize)
	}
	return &api.InspectResponse{Snapshot: shown, InfoJson: b}, nil
}

// Version implements the API.
func (d *Daemon) Version(_ context.Context, _ *api.VersionRequest) (*api.VersionResponse, error) {
	v := &api.VersionResponse{
		Version: d.opt.Version, GoVersion: runtime.Version(), Kernel: doctor.Kernel(),
		CriuVersion: criu.VersionText(d.criuVersion), CriuPath: d.criu.Path, StateDir: d.opt.StateDir, RunDir: d.opt.RunDir, Cgroup: d.cgroups.Name(), Pid: int32(os.Getpid()),
		HolderPid: int32(d.fds.PID()),
	}
	return v, nil
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
