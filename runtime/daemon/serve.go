package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/server"
	"github.com/snapctl/snapctl/runtime/server/afar"
)

// Serve answers requests on the socket in the run directory until ctx ends; it
// returns when the requests under way have ended. ready is called when the
// socket accepts; may be nil.
//
// Root alone may open the socket.
func (d *Daemon) Serve(ctx context.Context, ready func()) (err error) {
	stopMetrics, err := d.serveMetrics(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopMetrics()) }()
	path := filepath.Join(d.opt.RunDir, SocketName)
	// What an earlier daemon left: this one has the state directory's lock.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace socket: %w", err)
	}
	// The run directory is 0700, so nobody connects before the mode is set.
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("protect socket: %w", err), l.Close())
	}
	hosts := server.New(d.front.SnapctlServer, afar.ForHosts(d.log, d.hosts.TakesApps)...) //nolint:contextcheck // each request has its own
	s := server.New(d.front)
	stop := context.AfterFunc(ctx, func() {
		d.tasks.Cancel()
		hosts.Stop()
		s.Stop() // both wait for the requests
	})
	defer stop()
	served := make(chan error, 1)
	go func() { served <- hosts.Serve(d.lines) }()
	defer func() {
		hosts.Stop()
		if herr := <-served; herr != nil && ctx.Err() == nil {
			err = errors.Join(err, fmt.Errorf("serve other hosts: %w", herr))
		}
	}()
	if ready != nil {
		ready()
	}
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// newService returns what answers requests.
func (d *Daemon) newService() *server.Server {
	return server.NewService(server.Rooms{
		Apps: &d.engine.Apps, Operations: d.engine, Maker: d.maker, Obstacles: d.rooms.Checker, Templates: d.clones.Catalog, Clones: d.clones, Pools: d.clones,
		Snapshots: d.rooms.Store, Network: d.rooms.VEM, Hosts: d.hosts, Layers: d.rooms.Storage.Layers, Memory: d.rooms.Storage.Memory, Events: d.rooms.Events,
		Others: server.Others{Directory: d.hosts.Upkeep(), Ways: d.hosts, Courier: d.courier, Mover: d.mover, Drainer: d.drainer},
	}, server.Options{
		Version: d.opt.Version, StateDir: d.opt.StateDir, RunDir: d.opt.RunDir, CRIU: d.criu.Path, CRIUVersion: d.criuVersion,
		Cgroup: d.rooms.Cgroups.Name(), CgroupDir: d.rooms.Cgroups.Path(),
	})
}
