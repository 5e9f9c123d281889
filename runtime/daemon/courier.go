package daemon

import (
	"context"
	"path/filepath"
	"runtime"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/courier"
	"github.com/snapctl/snapctl/runtime/doctor"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/control"
)

// origin is where snapshots are made that this daemon makes.
func (d *Daemon) origin() snapshot.Origin {
	return snapshot.Origin{Kernel: doctor.Kernel(), Arch: runtime.GOARCH, CRIUVersion: d.criuVersion}
}

// newCourier returns what takes snapshots to other hosts. It answers them before this host's part in an
// installation is open; only after that it asks others.
func (d *Daemon) newCourier() *courier.Courier {
	stores := d.rooms.Storage
	return courier.New(courier.Options{
		Open: func(ctx context.Context, host, kind string, parameters []byte) (*control.Stream, error) {
			return d.hosts.OpenStream(ctx, host, kind, parameters)
		},
		Self:      func() string { return others{d.hosts}.Self() },
		Snapshots: d.rooms.Store, Stores: cargo.Stores{Memory: stores.Memory, Layers: stores.Layers, HostFiles: stores.HostFiles}, Freed: stores.SweepSoon,
		Events: d.rooms.Events, Origin: d.origin(), Obstacles: d.obstacles,
		Templates:      func() *catalog.Catalog { return d.clones.Catalog },
		RemoveTemplate: func(ctx context.Context, name string) error { return d.clones.RemoveTemplate(ctx, name) },
		GuestsDir:      filepath.Join(d.opt.StateDir, "guests"), Log: d.log,
	})
}

// obstacles are why no app could be made of a snapshot now, in words.
func (d *Daemon) obstacles(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest) (list []string) {
	for _, o := range d.rooms.Checker.ManifestObstacles(ctx, dir, m, snapshot.BySize) {
		text := "no app could be made of it now: " + o.Reason
		if o.Remedy != "" {
			text += "; " + o.Remedy
		}
		list = append(list, text)
	}
	return list
}
