// Package beyond answers requests about the traffic between virtual networks and what is no endpoint
// of them. It is a part of the server that has a package of its own.
package beyond

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/gateway"
)

// Gateway is what this host forwards, as [installation.Installation] has it.
type Gateway interface {
	SetGateway(ctx context.Context, s gateway.Settings) (*gateway.View, error)
	Gateway(ctx context.Context) (*gateway.View, error)
}

// Desk answers the requests.
type Desk struct{ Gateway Gateway }

// SetGateway implements the API.
func (d *Desk) SetGateway(ctx context.Context, req *api.SetGatewayRequest) (*api.Gateway, error) {
	s := gateway.Settings{On: req.GetOn()}
	for _, text := range req.GetAdvertise() {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("advertise: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		s.Advertise = append(s.Advertise, p)
	}
	if len(s.Advertise) > 0 && !s.On {
		return nil, fmt.Errorf("advertise %s without a gateway: %w", s.Advertise[0], errdefs.ErrInvalidArgument)
	}
	v, err := d.Gateway.SetGateway(ctx, s)
	return show(v), err
}

// ShowGateway implements the API.
func (d *Desk) ShowGateway(ctx context.Context, _ *api.ShowGatewayRequest) (*api.Gateway, error) {
	v, err := d.Gateway.Gateway(ctx)
	return show(v), err
}

// show is a gateway as the API has it; nil if there is none.
func show(v *gateway.View) *api.Gateway {
	if v == nil {
		return nil
	}
	g := &api.Gateway{Host: v.Host, On: v.On, Advertise: texts(v.Advertise), Notes: v.Notes}
	for _, n := range v.Networks {
		g.Networks = append(g.Networks, &api.GatewayNetwork{
			Name: n.Name, Prefix4: text(n.Prefix4), Prefix6: text(n.Prefix6), Address4: text(n.Addr4), Address6: text(n.Addr6),
		})
	}
	for _, p := range v.Ports {
		g.Ports = append(g.Ports, &api.ForwardedPort{
			Protocol: p.Proto, HostPort: uint32(p.HostPort), Port: uint32(p.Port.Port), Network: p.Network, Address: p.Addr.String(), App: p.App, Host: p.Host,
			Reason: p.Why,
		})
	}
	for _, o := range v.Others {
		g.Others = append(g.Others, &api.OtherGateway{Host: o.Host, Advertise: texts(o.Advertise), Alive: o.Alive})
	}
	return g
}

// text is empty for what is not valid.
func text[T interface {
	IsValid() bool
	String() string
}](v T) string {
	if !v.IsValid() {
		return ""
	}
	return v.String()
}

func texts(list []netip.Prefix) (all []string) {
	for _, p := range list {
		all = append(all, p.String())
	}
	return all
}
