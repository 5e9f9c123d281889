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
