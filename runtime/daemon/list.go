package daemon

import (
	"runtime"

	"github.com/snapctl/snapctl/runtime/doctor"
	"github.com/snapctl/snapctl/snapshot"
)

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
