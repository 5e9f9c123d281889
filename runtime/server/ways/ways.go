// Package ways answers requests about the ways to the apps of other hosts: which channels there
// are, who has an endpoint, and where the way to it is broken. It is a part of the server that has
// a package of its own.
package ways

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/overview"
)

// Ways is how this host reaches the apps of others, as [installation.Installation] knows it.
type Ways interface {
	Channels(ctx context.Context) ([]overview.Channel, error)
	TakeDown(ctx context.Context, network, host string) ([]overview.Channel, error)
	Resolve(ctx context.Context, q overview.Question) (overview.Answer, error)
	Health(ctx context.Context) overview.Health
	Trace(ctx context.Context, r overview.Request, tell func(overview.Step)) (ok bool)
	Checkup(ctx context.Context) []overview.Check
}

// Service answers requests. It has no state of its own.
type Service struct {
	Ways Ways
	// NetPath tells where the network namespace of an app of this host is bound.
	NetPath func(app string) (string, error)
}

// ListChannels implements the API.
func (s *Service) ListChannels(ctx context.Context, req *api.ChannelsRequest) (*api.ChannelsResponse, error) {
	all, err := s.Ways.Channels(ctx)
	if err != nil {
		return nil, err
	}
	resp := &api.ChannelsResponse{}
	for i := range all {
		if c := &all[i]; (req.GetNetwork() == "" || req.GetNetwork() == c.Network) && (req.GetHost() == "" || req.GetHost() == c.Host) {
			resp.Channels = append(resp.Channels, showChannel(c))
		}
	}
	return resp, nil
}

// TakeChannelsDown implements the API.
func (s *Service) TakeChannelsDown(ctx context.Context, req *api.ChannelsRequest) (*api.ChannelsResponse, error) {
	all, err := s.Ways.TakeDown(ctx, req.GetNetwork(), req.GetHost())
	if err != nil {
		return nil, err
	}
	resp := &api.ChannelsResponse{}
	for i := range all {
		resp.Channels = append(resp.Channels, showChannel(&all[i]))
	}
	return resp, nil
}

func showChannel(c *overview.Channel) *api.Channel {
	res := &api.Channel{
		Network: c.Network, Host: c.Host, Up: c.Up, Module: c.Module, Device: c.Device, Local: addrText(c.Local), Remote: addrText(c.Remote), Mtu: int32(c.MTU),
		Since: stamp(c.Since), Last: stamp(c.Last), Unmet: c.Unmet,
		Sent:     &api.Flow{Packets: c.Sent.Packets, Bytes: c.Sent.Bytes},
		Received: &api.Flow{Packets: c.Received.Packets, Bytes: c.Received.Bytes},
	}
	for _, a := range c.Endpoints {
		res.Endpoints = append(res.Endpoints, a.String())
	}
	return res
}

// addrText is "" for no address.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// stamp is nil for no time.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Resolve implements the API.
func (s *Service) Resolve(ctx context.Context, req *api.ResolveRequest) (*api.ResolveResponse, error) {
	answer, err := s.Ways.Resolve(ctx, readQuestion(req.GetEndpoint(), req.GetNetwork()))
	if err != nil {
		return nil, err
	}
	resp := &api.ResolveResponse{}
	if answer.Trouble != nil {
		resp.Trouble = answer.Trouble.Error()
	}
	for i := range answer.Found {
		e := &answer.Found[i]
		resp.Found = append(resp.Found, &api.Resolution{
			Network: e.Network, App: e.App, Endpoint: addrText(e.Addr4), Endpoint6: addrText(e.Addr6), Host: e.Host, Self: e.Self, Epoch: e.Epoch,
			State: e.State, Target: e.Target, Alive: e.Alive, Source: string(e.Source), AsOf: stamp(e.AsOf),
		})
	}
	return resp, nil
}

// readQuestion takes an address for one, and all else for the name of an app.
func readQuestion(endpoint, network string) overview.Question {
	q := overview.Question{Network: network}
	if a, err := netip.ParseAddr(endpoint); err == nil {
		q.Addr = a.Unmap()
	} else {
		q.App = endpoint
	}
	return q
}

// Trace implements the API: it tells each step as soon as it is done.
func (s *Service) Trace(req *api.TraceRequest, stream grpc.ServerStreamingServer[api.TraceStep]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var serr error
	s.Ways.Trace(ctx, overview.Request{To: readQuestion(req.GetEndpoint(), req.GetNetwork()), From: req.GetFrom(), Echo: s.echo}, func(step overview.Step) {
		if serr != nil {
			return
		}
		serr = stream.Send(&api.TraceStep{Name: step.Name, Status: string(step.Status), Found: step.Found, Remedy: step.Remedy, Took: durationpb.New(step.Took)})
		if serr != nil {
			cancel()
		}
	})
	return serr
}

// echo sends a packet from an app's network namespace.
func (s *Service) echo(ctx context.Context, from string, to netip.Addr, size overview.Size) (_ time.Duration, err error) {
	path, err := s.NetPath(from)
	if err != nil {
		return 0, err
	}
	ns, err := netns.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	return overview.Echo(ctx, ns, to, size)
}
