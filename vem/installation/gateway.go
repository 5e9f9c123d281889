package installation

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/snapctl/snapctl/vem/devices"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

func (i *Installation) gatewayFile() string { return filepath.Join(i.opt.Dir, "gateway.json") }

// openGateway returns what has this host itself be in networks, and forwards for other machines.
func (i *Installation) openGateway(p *part) (*gateway.Forwarder, error) {
	return gateway.Open(gateway.Options{
		Path: i.gatewayFile(), Self: p.identity.Host(), VEM: i.opt.Local, Log: i.opt.Log,
		Ways: func(ctx context.Context, network string, b gateway.Beyond) error {
			return p.mesh.SetBeyond(ctx, network, b)
		},
		Own: func() (list []gateway.Published) {
			for _, e := range i.opt.Local.Present() {
				ports, _ := gateway.ParsePorts(e.Ports) // this host has made the text
				for _, port := range ports {
					list = append(list, gateway.Published{Port: port, Network: e.Network, Addr: e.Addr4, App: e.App, Host: p.identity.Host()})
				}
			}
			return list
		},
		Known: func() gateway.Known {
			if c := p.cache.Load(); c != nil && !c.Freshness().At.IsZero() {
				return c
			}
			return nil
		},
	})
}

// forward has published ports of other hosts' apps lead to them on this host, until ctx ends.
func (i *Installation) forward(ctx context.Context, p *part) {
	select {
	case <-i.recovered: // what an earlier daemon forwards goes on until then
		p.gateway.Run(ctx)
	case <-ctx.Done():
	}
}

// SetGateway makes this host a gateway, or none, from now on and after restarts. It returns a
// [*membership.Error] if this host is in no installation, or if a prefix can't be advertised.
func (i *Installation) SetGateway(ctx context.Context, s gateway.Settings) (*gateway.View, error) {
	p, err := i.running()
	if err != nil {
		return nil, err
	}
	if why := p.mesh.NotBeyond(); why != "" && len(s.Advertise) > 0 {
		return nil, &membership.Error{Text: "machines behind this gateway can't keep their addresses: " + why, Remedy: "make the host a gateway without prefixes: endpoints see these machines as the host"}
	}
	obstacles := p.gateway.Obstacles()
	for _, u := range devices.Underlay(i.placeNow().Addresses) {
		obstacles = append(obstacles, gateway.Obstacle{Prefix: u.Prefix.Masked(), What: "the underlay of this host"})
	}
	if err := s.Check(obstacles); err != nil {
		return nil, &membership.Error{Text: err.Error(), Remedy: "advertise the prefixes of machines behind this host, and nothing else"}
	}
	if err := p.gateway.Set(ctx, s); err != nil {
		return nil, err
	}
	i.Changed() // other hosts are told by the directory
	return i.Gateway(ctx)
}

// Gateway returns what this host forwards.
func (i *Installation) Gateway(ctx context.Context) (*gateway.View, error) {
	p, err := i.running()
	if err != nil {
		return nil, err
	}
	v, err := p.gateway.View()
	if err == nil {
		v.Notes, err = p.mesh.Uncarried(ctx)
	}
	return v, err
}

// reside has this host itself be in a network, at another address than before if that is somebody
// else's now: an old backup of the directory may have brought that about.
func (r *Registrar) reside(ctx context.Context, network string) error {
	c, ok := r.ledger.Get(ownership.Spot{Network: network, Addr: r.gateway.At(network)})
	if ok && c.State == ownership.Lost && c.Now != nil {
		if err := r.gateway.MoveOut(ctx, network); err != nil {
			return err
		}
	}
	return r.gateway.Reside(ctx, network)
}

// publish brings the records up to date whose endpoints publish other ports than before, and those that
// tell that this host is a gateway.
func (r *Registrar) publish(ctx context.Context, s *directory.Session) error {
	var errs []error
	for _, e := range r.local.Present() {
		c, ok := r.ledger.Get(e.spot())
		if c.Endpoint.OfHost() {
			e.Ports = r.gateway.Settings().Format()
		}
		if !ok || c.State != ownership.Owned || c.Endpoint.App != e.App || c.Endpoint.Ports == e.Ports {
			continue
		}
		next, err := s.Publish(ctx, c.Endpoint, e.Ports)
		if err == nil {
			c.Endpoint = next
			err = r.ledger.Put(c)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
