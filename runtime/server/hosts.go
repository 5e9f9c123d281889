package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/server/members"
	"github.com/snapctl/snapctl/runtime/server/ways"
	"github.com/snapctl/snapctl/vem/directory/conflict"
	"github.com/snapctl/snapctl/vem/membership"
)

// defaultInvitation is how long an invitation is good that names no other time.
const defaultInvitation = time.Hour

// InitHost implements the API.
func (srv *Server) InitHost(ctx context.Context, req *api.InitHostRequest) (*api.Host, error) {
	place, err := members.Place(req.GetName(), req.GetAddresses(), req.GetPort())
	if err != nil {
		return nil, err
	}
	h, err := srv.rooms.Hosts.Init(ctx, membership.InitRequest{Place: place, Directory: req.GetDirectory()})
	return members.Show(h), err
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
	place, err := members.Place(req.GetName(), req.GetAddresses(), req.GetPort())
	if err != nil {
		return nil, err
	}
	join := membership.JoinRequest{Place: place, At: req.GetAt(), Token: req.GetToken(), OnConflict: membership.OnConflict(req.GetOnConflict())}
	h, err := srv.rooms.Hosts.Join(ctx, join)
	if found, ok := errors.AsType[*conflict.Error](err); ok {
		return &api.JoinHostResponse{Conflicts: members.Conflicts(found.List)}, nil
	}
	return &api.JoinHostResponse{Host: members.Show(h)}, err
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
		res.Hosts = append(res.Hosts, ways.ShowHealth(members.Show(&all[i]), &health))
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
			res := ways.ShowHealth(members.Show(h), &health)
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
	return members.Set(ctx, srv.rooms.Hosts, req)
}

// RemoveHost implements the API.
func (srv *Server) RemoveHost(ctx context.Context, req *api.RemoveHostRequest) (*api.RemoveResponse, error) {
	return &api.RemoveResponse{}, srv.rooms.Hosts.Remove(ctx, req.GetName(), req.GetForce())
}
