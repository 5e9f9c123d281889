package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/line"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/installation"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
)

// directoryProgram is a member of the directory, which stands beside snapctld.
const directoryProgram = "snapctl-directory"

// openHosts takes up this host's part in an installation, if it is in one.
func (d *Daemon) openHosts(ctx context.Context) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find snapctld: %w", err)
	}
	d.courier, d.lines = d.newCourier(), line.NewSwitchboard()
	d.hosts, err = installation.Open(ctx, installation.Options{
		Dir: filepath.Join(d.opt.StateDir, "installation"), Exe: findDirectoryProgram(), Version: d.opt.Version, Boot: d.rooms.VEM.Boot(),
		Local: networks{d.rooms.VEM}, Share: d.share, Unshare: func(ctx context.Context) error { return d.rooms.VEM.SetSharing(ctx, nil) }, Admitted: d.readmit, Streams: d.streams(), Run: d.tasks.Run, Log: d.log,
		Step: func(ctx context.Context, name string) error { return fault.Point(ctx, fault.Name(name)) }, ProbeInterval: d.opt.ProbeInterval, WireGuard: wireguard.Local{Exe: exe},
	})
	if err == nil {
		d.rooms.VEM.SetGate(gate{d.hosts})
	}
	return err
}

// HostPoints are the points of what this host does with others.
func HostPoints() (list []fault.Name) {
	for _, name := range membership.Steps() {
		list = append(list, fault.Name(name))
	}
	return append(list, cargo.Points()...)
}

// findDirectoryProgram looks beside this program, and then in PATH.
func findDirectoryProgram() string {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), directoryProgram)
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	if path, err := exec.LookPath(directoryProgram); err == nil {
		return path
	}
	return directoryProgram // starting it says that it is missing
}

// share has other hosts share all networks of this one.
func (d *Daemon) share(ctx context.Context, m *mesh.Mesh) error {
	return d.rooms.VEM.SetSharing(ctx, func(ctx context.Context, network string, f vem.Fabric, s address.Space) (vem.Share, error) {
		if d.hosts != nil && d.hosts.IsPrivate(network) {
			return nil, nil //nolint:nilnil // nobody shares it
		}
		real, ok := f.(*fabric.Fabric)
		if !ok {
			return nil, fmt.Errorf("network %s has no fabric in the kernel", network)
		}
		prefixes := []netip.Prefix{s.Prefix4}
		if s.Prefix6.IsValid() {
			prefixes = append(prefixes, s.Prefix6)
		}
		n, err := m.Open(ctx, network, real, prefixes)
		if err != nil {
			return nil, err
		}
		return shared{n, d.endpointsChanged}, nil
	})
}

// endpointsChanged tells the installation of endpoints that have come or gone.
func (d *Daemon) endpointsChanged() {
	if d.hosts != nil {
		d.hosts.Changed()
	}
}

// shared is a network that other hosts share.
type shared struct {
	*mesh.Network

	changed func()
}

func (s shared) Here(a netip.Addr) {
	s.Network.Here(a)
	s.changed()
}

func (s shared) Left(a netip.Addr) {
	s.Network.Left(a)
	s.changed()
}

// networks are those of the VEM, as an installation asks for them.
type networks struct{ *vem.Manager }

func (n networks) Present() []installation.Endpoint { return inUse(n.Manager.Present()) }

func (n networks) Wanted() []installation.Endpoint { return inUse(n.Manager.Wanted()) }

// inUse leaves out those that stand ready: nobody reaches them.
func inUse(all []vem.Claim) (list []installation.Endpoint) {
	for _, c := range all {
		if c.Spare == nil {
			list = append(list, endpointOf(c))
		}
	}
	return list
}

func (n networks) Find(network string, a netip.Addr) (installation.Endpoint, bool) {
	c, ok := n.Manager.Find(network, a)
	return endpointOf(c), ok
}

func endpointOf(c vem.Claim) installation.Endpoint {
	var ports []gateway.Port
	for _, p := range c.Ports {
		if !p.HostAddr.IsValid() { // else it is a port of this host alone
			ports = append(ports, gateway.Port{Proto: p.Proto, HostPort: p.HostPort, Port: p.Port})
		}
	}
	return installation.Endpoint{Network: c.Network, App: c.App, Addr4: c.Addr4, Ports: gateway.FormatPorts(ports)}
}

func (n networks) SetFar(ctx context.Context, network string, list []gateway.Published) error {
	space, err := n.Space(network)
	if err != nil && len(list) > 0 {
		return err
	}
	var all []fabric.Publication
	for _, p := range list {
		for _, a := range []netip.Addr{p.Addr, space.Pair(p.Addr)} {
			if a.IsValid() {
				all = append(all, fabric.Publication{Proto: p.Proto, HostPort: p.HostPort, Addr: a, Port: p.Port.Port})
			}
		}
	}
	return n.Manager.SetFar(ctx, network, all)
}

func (n networks) SetGateway(r gateway.Rules) {
	n.Manager.SetGateway(fabric.Gateway{On: r.On, Keep: r.Advertise, Elsewhere: r.Elsewhere})
}
