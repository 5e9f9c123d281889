package daemon

import (
	"runtime"
	"slices"
	"strings"

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
