package clitest

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
)

// thereApp is the app of the other host.
const (
	thereApp      = "db"
	thereEndpoint = "10.77.64.2"
)

// channel is the one to the other host; nil as long as this host is alone.
func (f *Daemon) channel() *api.Channel {
	if len(f.Hosts) < 2 {
		return nil
	}
	c := &api.Channel{
		Network: "default", Host: "there", Up: !f.ChannelDown, Module: "direct", Device: "eth0", Local: "192.0.2.7", Remote: "192.0.2.8", Mtu: 1400,
		Since: timestamppb.New(Began), Last: timestamppb.New(Began.Add(115 * time.Second)),
		Sent: &api.Flow{Packets: 12, Bytes: 3 << 10}, Received: &api.Flow{Packets: 9, Bytes: 2 << 20},
	}
	if c.GetUp() {
		c.Endpoints = []string{thereEndpoint}
	}
	return c
}

func (f server) ListChannels(_ context.Context, req *api.ChannelsRequest) (*api.ChannelsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &api.ChannelsResponse{}
	if c := f.channel(); c != nil && (req.GetHost() == "" || req.GetHost() == c.GetHost()) && (req.GetNetwork() == "" || req.GetNetwork() == c.GetNetwork()) {
		r.Channels = append(r.Channels, c)
	}
	return r, nil
}

func (f server) TakeChannelsDown(_ context.Context, req *api.ChannelsRequest) (*api.ChannelsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.GetHost() != "" {
		if _, err := f.findHost(req.GetHost()); err != nil {
			return nil, err
		}
	}
	r := &api.ChannelsResponse{}
	if c := f.channel(); c != nil && c.GetUp() && (req.GetNetwork() == "" || req.GetNetwork() == c.GetNetwork()) {
		f.ChannelDown = true
		r.Channels = append(r.Channels, f.channel())
	}
	return r, nil
}

func (f server) Resolve(_ context.Context, req *api.ResolveRequest) (*api.ResolveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*api.Resolution
	for _, a := range f.Apps {
		state := "running"
		if a.GetStatus() == api.Status_STATUS_HELD {
			state = "held"
		}
		e := &api.Resolution{Network: a.GetNetwork(), App: a.GetName(), Endpoint: a.GetEndpoint(), Self: true, Alive: true, State: state, Source: "here", AsOf: timestamppb.New(Began)}
		if len(f.Hosts) > 0 {
			e.Host, e.Epoch = "here", 1
		}
		all = append(all, e)
	}
	if len(f.Hosts) > 1 {
		all = append(all, &api.Resolution{
			Network: "default", App: thereApp, Endpoint: thereEndpoint, Endpoint6: "fd77::4002", Host: "there", Epoch: 2, State: "running", Source: "cache",
			AsOf: timestamppb.New(Began.Add(118 * time.Second)),
		})
	}
	r := &api.ResolveResponse{}
	for _, e := range all {
		asked := req.GetEndpoint() == "" || req.GetEndpoint() == e.GetEndpoint() || req.GetEndpoint() == e.GetApp()
		if asked && (req.GetNetwork() == "" || req.GetNetwork() == e.GetNetwork()) {
			r.Found = append(r.Found, e)
		}
	}
	if len(r.GetFound()) == 0 && req.GetEndpoint() != "" {
		return nil, status.Errorf(codes.NotFound, "nobody has address %s: not found", req.GetEndpoint())
	}
	return r, nil
}

// Trace follows the way to an endpoint, as far as the channel to the other host, if that is down.
func (f server) Trace(req *api.TraceRequest, out grpc.ServerStreamingServer[api.TraceStep]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	steps := []*api.TraceStep{
		{Name: "network", Status: "ok", Found: req.GetEndpoint() + " is an address of network default", Took: durationpb.New(20 * time.Microsecond)},
		{Name: "owner", Status: "failed", Found: "nobody has address " + req.GetEndpoint(), Remedy: "start the app"},
	}
	if req.GetEndpoint() == thereEndpoint {
		steps[1] = &api.TraceStep{Name: "owner", Status: "warning", Found: "app db, on host there; the directory can't be asked", Remedy: "snapctl doctor", Took: durationpb.New(time.Millisecond)}
		steps = append(steps, &api.TraceStep{Name: "source", Status: "ok", Found: "app " + req.GetFrom(), Took: durationpb.New(time.Second)})
	}
	for _, s := range steps {
		if err := out.Send(s); err != nil {
			return err
		}
	}
	return nil
}
