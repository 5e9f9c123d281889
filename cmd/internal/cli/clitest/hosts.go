package clitest

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
)

// goodToken is the only one with which a host may join.
const goodToken = "snapctl1-GOOD"

func (f *Daemon) findHost(name string) (*api.Host, error) {
	for _, h := range f.Hosts {
		if h.GetName() == name || name == "" && h.GetSelf() {
			return h, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "host %s: not found", name)
}

// enter makes this host one of an installation.
func (f *Daemon) enter(ctx context.Context, name string, port uint32, addresses []*api.HostAddress) (*api.Host, error) {
	if len(f.Hosts) > 0 {
		hint(ctx, "snapctl host ls lists its hosts")
		return nil, status.Error(codes.FailedPrecondition, "this host is in an installation already")
	}
	if name == "" {
		name = "here"
	}
	if port == 0 {
		port = 7077
	}
	if len(addresses) == 0 {
		addresses = []*api.HostAddress{{Address: "192.0.2.7", Device: "eth0"}}
	}
	h := &api.Host{
		Name: name, Self: true, Health: api.HostHealth_HOST_HEALTH_UP, Addresses: addresses, Port: port, Version: "1.2.3",
		Key: strings.Repeat("0f", 32), Installation: strings.Repeat("7a", 16), JoinedAt: timestamppb.New(Began), CertificateUntil: timestamppb.New(Began.AddDate(0, 1, 0)),
		Channel: "auto", ChannelKinds: []string{"direct", "tunnel", "vxlan"},
	}
	f.Hosts = append(f.Hosts, h)
	slices.SortFunc(f.Hosts, func(a, b *api.Host) int { return strings.Compare(a.GetName(), b.GetName()) })
	return h, nil
}

// InitHost makes an installation, or has a host that has joined one run it too.
func (f server) InitHost(ctx context.Context, req *api.InitHostRequest) (*api.Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h, err := f.findHost(""); err == nil && !h.GetDirectory() {
		h.Directory, h.Ca = true, true
		return h, nil
	}
	h, err := f.enter(ctx, req.GetName(), req.GetPort(), req.GetAddresses())
	if err == nil {
		h.Directory, h.Ca = len(req.GetDirectory()) == 0, true
	}
	return h, err
}

func (f server) InviteHost(ctx context.Context, req *api.InviteHostRequest) (*api.Invitation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.Hosts) == 0 {
		hint(ctx, "snapctl host init makes one")
		return nil, status.Error(codes.FailedPrecondition, "this host is in no installation")
	}
	return &api.Invitation{
		Token: goodToken, Addresses: []string{"192.0.2.7:7077", "[2001:db8::7]:7077"}, ExpiresAt: timestamppb.New(Began.Add(2*time.Minute + req.GetTtl().AsDuration())),
	}, nil
}

// JoinHost joins an installation that has one other host. A host called clash has what it has.
func (f server) JoinHost(ctx context.Context, req *api.JoinHostRequest) (*api.JoinHostResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.GetToken() != goodToken {
		hint(ctx, "snapctl host invite on "+req.GetAt()+" makes a new one")
		return nil, status.Error(codes.FailedPrecondition, "the token was used already")
	}
	clash := req.GetName() == "clash"
	if clash && req.GetOnConflict() == api.OnConflict_ON_CONFLICT_REFUSE {
		return &api.JoinHostResponse{Conflicts: []*api.HostConflict{
			{Kind: "prefixes", Mine: "default", There: "default", Network: "default", Text: "network default is 10.77.0.0/16 there", Remedy: "--on-conflict keep-private keeps it"},
			{Kind: "app-name", Mine: "cache", There: "cache", Network: "default", Text: "there is an app cache in the installation", Remedy: "snapctl rm cache"},
		}}, nil
	}
	h, err := f.enter(ctx, req.GetName(), req.GetPort(), req.GetAddresses())
	if err != nil {
		return nil, err
	}
	if clash {
		h.PrivateNetworks = []string{"default"}
	}
	f.Hosts = append(f.Hosts, &api.Host{
		Name: "there", Health: api.HostHealth_HOST_HEALTH_SILENT, Addresses: []*api.HostAddress{{Address: "192.0.2.8"}}, Port: 7077, Directory: true, Endpoints: 3,
		Key: strings.Repeat("f0", 32), Installation: h.GetInstallation(), JoinedAt: timestamppb.New(Began.Add(-time.Hour)), Since: timestamppb.New(Began),
		Control: &api.HostControl{
			Connected: true, Address: "192.0.2.8:7077", Since: timestamppb.New(Began), Skew: durationpb.New(3 * time.Second), RoundTrip: durationpb.New(400 * time.Microsecond),
		},
		Ways: []*api.HostWay{
			{Address: "192.0.2.7", Device: "eth0", Remote: "192.0.2.8", State: api.WayState_WAY_STATE_DOWN, Loss: 1},
			{Address: "198.51.100.7", Device: "eth1", Remote: "198.51.100.8", State: api.WayState_WAY_STATE_UP, RoundTrip: durationpb.New(420 * time.Microsecond), Loss: 1. / 64, Mtu: 1500, Used: true},
		},
	})
	return &api.JoinHostResponse{Host: h}, nil
}

func (f server) CordonHost(_ context.Context, req *api.CordonHostRequest) (*api.Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.findHost(req.GetHost())
	if err == nil {
		h.Cordoned = req.GetCordoned()
	}
	return h, err
}

func (f server) ListHosts(context.Context, *api.ListRequest) (*api.ListHostsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.ListHostsResponse{Hosts: f.Hosts}, nil
}

func (f server) ShowHost(_ context.Context, req *api.HostRequest) (*api.Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.findHost(req.GetName())
}

func (f server) SetHost(_ context.Context, req *api.SetHostRequest) (*api.Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.findHost("")
	switch {
	case err != nil:
		return nil, err
	case req.GetFindAddresses():
		h.Addresses = []*api.HostAddress{{Address: "192.0.2.7", Device: "eth0"}}
	case len(req.GetAddresses()) > 0:
		h.Addresses = req.GetAddresses()
		h.Notes = []string{"no other host answers from " + h.Addresses[0].GetAddress() + ": it is of no use yet"}
		defer func() { h.Notes = nil }()
		return proto.CloneOf(h), nil
	default:
		h.Channel = req.GetChannel()
	}
	return h, nil
}

// Takeover takes the apps of host "there" over: cache, of which there is a snapshot, and web.
func (f server) Takeover(ctx context.Context, req *api.TakeoverRequest) (*api.TakeoverResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.findHost(req.GetFrom())
	if err != nil {
		return nil, err
	}
	if h.GetHealth() == api.HostHealth_HOST_HEALTH_UP {
		hint(ctx, "if host "+h.GetName()+" is gone, wait some seconds")
		return nil, status.Errorf(codes.FailedPrecondition, "take app %s over from host %s: host %[2]s is alive", req.GetApp(), h.GetName())
	}
	t := &api.TakeoverResponse{App: req.GetApp(), Network: "default", Endpoint: "10.77.0.7", Epoch: 2, From: h.GetName(), By: "here"}
	if req.GetApp() == "cache" {
		t.Snapshots = []string{"cache-2", "cache-1"}
	}
	return t, nil
}

func (f server) RemoveHost(ctx context.Context, req *api.RemoveHostRequest) (*api.RemoveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.findHost(req.GetName())
	if err != nil {
		return nil, err
	}
	if n := h.GetEndpoints(); n > 0 && !req.GetForce() {
		hint(ctx, "--force removes it all the same: nobody reaches them any more")
		return nil, status.Errorf(codes.FailedPrecondition, "host %s has %d endpoints", h.GetName(), n)
	}
	f.Hosts = slices.DeleteFunc(f.Hosts, func(b *api.Host) bool { return h == b })
	return &api.RemoveResponse{}, nil
}

// SetGateway makes this host a gateway of a network in which one app of another host publishes a port.
func (f server) SetGateway(ctx context.Context, req *api.SetGatewayRequest) (*api.Gateway, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.findHost("")
	if err != nil {
		hint(ctx, "snapctl host init makes one")
		return nil, status.Error(codes.FailedPrecondition, "this host is in no installation")
	}
	f.Gateway = &api.Gateway{
		Host: h.GetName(), On: req.GetOn(), Advertise: req.GetAdvertise(),
		Networks: []*api.GatewayNetwork{{Name: "default", Prefix4: "10.77.0.0/16", Prefix6: "fd77:736e:6170::/64", Address4: "10.77.0.66", Address6: "fd77:736e:6170::42"}},
		Ports: []*api.ForwardedPort{
			{Protocol: "tcp", HostPort: 8080, Port: 80, Network: "default", Address: "10.77.0.130", App: "web", Host: "there"},
			{Protocol: "tcp", HostPort: 22, Port: 22, Network: "default", Address: "10.77.0.131", App: "ssh", Host: "there", Reason: "a program has the port on this host"},
		},
	}
	return f.Gateway, nil
}

func (f server) ShowGateway(ctx context.Context, _ *api.ShowGatewayRequest) (*api.Gateway, error) {
	f.mu.Lock()
	g := f.Gateway
	f.mu.Unlock()
	if g == nil {
		return f.SetGateway(ctx, &api.SetGatewayRequest{})
	}
	return g, nil
}

// LeaveHost implements the API.
func (f server) LeaveHost(ctx context.Context, req *api.LeaveHostRequest) (*api.RemoveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.findHost("")
	if err != nil {
		return nil, err
	}
	if !req.GetForce() && len(f.Hosts) > 1 {
		hint(ctx, "move or remove them first")
		return nil, status.Errorf(codes.FailedPrecondition, "host %s has apps that other hosts know of: web", h.GetName())
	}
	f.Hosts = nil
	return &api.RemoveResponse{}, nil
}

// ShowDirectory shows a member for each host that runs one.
func (f server) ShowDirectory(context.Context, *api.ShowDirectoryRequest) (*api.Directory, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := &api.Directory{}
	for _, h := range f.Hosts {
		if h.GetDirectory() {
			at := "https://" + h.GetAddresses()[0].GetAddress() + ":7078"
			d.Urls = append(d.Urls, at)
			d.Members = append(d.Members, &api.DirectoryMember{
				Host: h.GetName(), Id: "8e9e05c52164694d", Self: h.GetSelf(), Answers: h.GetSelf(), Leads: h.GetSelf(), Version: "3.7.3",
				SizeBytes: 24 << 20, InUseBytes: 9 << 20, QuotaBytes: 10 << 20, Urls: []string{at},
			})
		}
	}
	return d, nil
}

// BackUpDirectory knows one file that is there.
func (f server) BackUpDirectory(_ context.Context, req *api.BackUpDirectoryRequest) (*api.DirectoryBackup, error) {
	if req.GetPath() == "/there" {
		return nil, status.Error(codes.AlreadyExists, "back up directory: create /there: file exists")
	}
	return &api.DirectoryBackup{Path: req.GetPath(), SizeBytes: 98_336, Sha256: strings.Repeat("0f", 32)}, nil
}

// RestoreDirectory wants force if another host runs a member.
func (f server) RestoreDirectory(ctx context.Context, req *api.RestoreDirectoryRequest) (*api.Directory, error) {
	d, err := f.ShowDirectory(ctx, nil)
	if err == nil && len(d.GetMembers()) > 1 && !req.GetForce() {
		return nil, status.Error(codes.FailedPrecondition, "the directory runs on other hosts: there")
	}
	return d, err
}

// DefragmentDirectory implements the API.
func (f server) DefragmentDirectory(ctx context.Context, req *api.DefragmentDirectoryRequest) (*api.Directory, error) {
	if req.GetHost() == "there" {
		return nil, status.Error(codes.Unknown, "it does not answer")
	}
	return f.ShowDirectory(ctx, nil)
}
