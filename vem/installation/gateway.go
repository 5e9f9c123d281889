package installation

import (
	"context"
	"path/filepath"

	"github.com/snapctl/snapctl/vem/devices"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/membership"
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
		v.Notes = p.mesh.Notes()
	}
	return v, err
}
