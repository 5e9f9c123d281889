package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/snapshot"
)

// Takeover implements the API.
func (srv *Server) Takeover(ctx context.Context, req *api.TakeoverRequest) (*api.TakeoverResponse, error) {
	if err := snapshot.ValidateName(req.GetApp()); err != nil {
		return nil, fmt.Errorf("app: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if req.GetFrom() == "" {
		return nil, fmt.Errorf("take app %s over: %w: from which host?", req.GetApp(), errdefs.ErrInvalidArgument)
	}
	t, err := srv.rooms.Hosts.Takeover(ctx, req.GetApp(), req.GetFrom())
	if err != nil {
		return nil, err
	}
	return &api.TakeoverResponse{
		App: t.App, Network: t.Network, Endpoint: t.Addr.String(), Epoch: t.Epoch, From: t.From, By: t.By, Snapshots: srv.snapshotsOf(t.App),
	}, nil
}

// snapshotsOf are the names of the snapshots of an app that can be read, the newest first.
func (srv *Server) snapshotsOf(app string) (list []string) {
	names, err := srv.rooms.Snapshots.Names()
	if err != nil {
		return nil // the listing of snapshots says why
	}
	var found []*snapshot.Manifest
	for _, name := range names {
		if _, m, err := srv.rooms.Snapshots.Find(name); err == nil && m.App == app {
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(a, b *snapshot.Manifest) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for _, m := range found {
		list = append(list, m.Name)
	}
	return list
}
