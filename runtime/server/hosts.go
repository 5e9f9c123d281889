package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/server/ways"
	"github.com/snapctl/snapctl/vem/directory/conflict"
	"github.com/snapctl/snapctl/vem/membership"
)

// defaultInvitation is how long an invitation is good that names no other time.
const defaultInvitation = time.Hour

// InitHost implements the API.
func (srv *Server) InitHost(ctx context.Context, req *api.InitHostRequest) (*api.Host, error) {
	place, err := readPlace(req.GetName(), req.GetAddresses(), req.GetPort())
	if err != nil {
		return nil, err
	}
	h, err := srv.rooms.Hosts.Init(ctx, membership.InitRequest{Place: place, Directory: req.GetDirectory()})
	return showHost(h), err
}

// InviteHost implements the API.
func (srv *Server) InviteHost(ctx context.Context, req *api.InviteHostRequest) (*api.Invitation, error) {
	ttl := defaultInvitation
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	if ttl <= 0 {
		return nil, fmt.Errorf("invite a host for %s: %w", ttl, errdefs.ErrInvalidArgument)
	}
	i, err := srv.rooms.Hosts.Invite(ctx, ttl)
	if err != nil {
		return nil, err
	}
	res := &api.Invitation{Token: i.Token, ExpiresAt: timestamppb.New(i.ExpiresAt)}
	for _, a := range i.Addresses {
		res.Addresses = append(res.Addresses, a.String())
	}
	return res, nil
}

// JoinHost implements the API.
func (srv *Server) JoinHost(ctx context.Context, req *api.JoinHostRequest) (*api.JoinHostResponse, error) {
	place, err := readPlace(req.GetName(), req.GetAddresses(), req.GetPort())
	if err != nil {
		return nil, err
	}
	join := membership.JoinRequest{Place: place, At: req.GetAt(), Token: req.GetToken(), OnConflict: membership.OnConflict(req.GetOnConflict())}
	h, err := srv.rooms.Hosts.Join(ctx, join)
	if found, ok := errors.AsType[*conflict.Error](err); ok {
		return &api.JoinHostResponse{Conflicts: showConflicts(found.List)}, nil
	}
	return &api.JoinHostResponse{Host: showHost(h)}, err
}

// showConflicts are conflicts with what can be done about each.
func showConflicts(list []conflict.Conflict) (all []*api.HostConflict) {
	for _, c := range list {
		all = append(all, &api.HostConflict{Kind: string(c.Kind), Mine: c.Mine, There: c.There, Network: c.Network, Text: c.Text, Remedy: c.Remedy()})
	}
	return all
}

// ListHosts implements the API.
func (srv *Server) ListHosts(ctx context.Context, _ *api.ListRequest) (*api.ListHostsResponse, error) {
	all, err := srv.rooms.Hosts.List(ctx)
	if err != nil {
		return nil, err
	}
	health := srv.rooms.Ways.Health(ctx)
	res := &api.ListHostsResponse{}
	if health.Trouble != nil {
		res.Trouble = health.Trouble.Error()
	}
	for i := range all {
		res.Hosts = append(res.Hosts, ways.ShowHealth(showHost(&all[i]), &health))
	}
	return res, nil
}

// ShowHost implements the API.
func (srv *Server) ShowHost(ctx context.Context, req *api.HostRequest) (*api.Host, error) {
	all, err := srv.rooms.Hosts.List(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if h := &all[i]; h.Name == req.GetName() || req.GetName() == "" && h.Self {
			health := srv.rooms.Ways.Health(ctx)
			res := ways.ShowHealth(showHost(h), &health)
			for _, w := range srv.rooms.Hosts.Ways(h.Name) {
				res.Ways = append(res.Ways, ways.Show(w))
			}
			return res, nil
		}
	}
	if req.GetName() == "" {
		return nil, fmt.Errorf("this host is in no installation: %w", errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("host %s: %w", req.GetName(), errdefs.ErrNotFound)
}

// SetHost implements the API.
func (srv *Server) SetHost(ctx context.Context, req *api.SetHostRequest) (*api.Host, error) {
	if req.GetChannel() == "" {
		return nil, fmt.Errorf("nothing is to be changed: %w", errdefs.ErrInvalidArgument)
	}
	h, err := srv.rooms.Hosts.SetChannel(ctx, req.GetNetwork(), req.GetChannel())
	return showHost(h), err
}

// RemoveHost implements the API.
func (srv *Server) RemoveHost(ctx context.Context, req *api.RemoveHostRequest) (*api.RemoveResponse, error) {
	return &api.RemoveResponse{}, srv.rooms.Hosts.Remove(ctx, req.GetName(), req.GetForce())
}

// readPlace reads what a host says of itself.
func readPlace(name string, addresses []*api.HostAddress, port uint32) (membership.Place, error) {
	p := membership.Place{Name: name, Port: uint16(port)}
	if port > math.MaxUint16 {
		return p, fmt.Errorf("port %d of the control channel: %w", port, errdefs.ErrInvalidArgument)
	}
	for _, a := range addresses {
		ip, err := netip.ParseAddr(a.GetAddress())
		if err != nil {
			return p, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		p.Addresses = append(p.Addresses, membership.Address{Addr: ip.Unmap(), Device: a.GetDevice(), Priority: int(a.GetPriority())})
	}
	return p, nil
}

// showHost is a host as the API has it; nil if there is none.
func showHost(h *membership.Host) *api.Host {
	if h == nil {
		return nil
	}
	res := &api.Host{
		Name: h.Name, Self: h.Self, Port: uint32(h.Port), Version: h.Version, Directory: h.Directory, Key: h.Key, Endpoints: int32(h.Endpoints),
		Installation: h.Installation, Ca: h.CA, Channel: h.Channel, NetworkChannels: h.NetworkChannels, ChannelKinds: h.ChannelKinds, ChannelUnmet: h.ChannelUnmet, PrivateNetworks: h.Private,
		Health: map[membership.Health]api.HostHealth{
			membership.Up: api.HostHealth_HOST_HEALTH_UP, membership.Silent: api.HostHealth_HOST_HEALTH_SILENT, membership.Removed: api.HostHealth_HOST_HEALTH_REMOVED,
		}[h.Health],
	}
	for _, a := range h.Addresses {
		res.Addresses = append(res.Addresses, &api.HostAddress{Address: a.Addr.String(), Device: a.Device, Priority: int32(a.Priority)})
	}
	if !h.JoinedAt.IsZero() {
		res.JoinedAt = timestamppb.New(h.JoinedAt)
	}
	if !h.Certificate.IsZero() {
		res.CertificateUntil = timestamppb.New(h.Certificate)
	}
	return res
}
