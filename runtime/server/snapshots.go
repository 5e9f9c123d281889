package server

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

// TakeSnapshot implements the API.
func (srv *Server) TakeSnapshot(req *api.SnapshotRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	accept, err := app.Protections(req.GetAcceptLost())
	if err != nil {
		return err
	}
	a, err := srv.rooms.Apps.Get(req.GetApp())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(req.GetTimeout()))
	defer cancel()
	var m *snapshot.Manifest
	about := event.About{App: req.GetApp(), Snapshot: req.GetName()}
	ended, out, err := srv.tellSteps(stream, event.Snapshot, about, func(op *event.Operation) (out *engine.Outcome, err error) {
		if req.GetEndSessions() {
			if err := a.EndSessions(ctx); err != nil {
				return nil, err
			}
		}
		m, out, err = srv.rooms.Operations.TakeSnapshot(ctx, a, engine.SnapshotRequest{Name: req.GetName(), Stop: req.GetStop(), Accept: accept, Op: op})
		if err == nil {
			op.Saved(m.Name)
		}
		return out, err
	})
	if err != nil {
		return err
	}
	return sendResult(stream, ended, out, &api.Result{App: srv.show(a), Snapshot: showSnapshot(m)})
}

// Restore implements the API.
func (srv *Server) Restore(req *api.RestoreRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(req.GetTimeout()))
	defer cancel()
	claim, err := srv.rooms.Snapshots.Claim(req.GetSnapshot(), birth.Restoring)
	if err != nil {
		return err
	}
	defer claim.Release()
	s, err := srv.rooms.Maker.BeginSnapshot(ctx, req.GetSnapshot(), snapshot.ByStamp)
	if err != nil {
		return err
	}
	defer s.Close()
	rec, err := restoredRecord(req, s.Manifest)
	if err != nil {
		return err
	}
	pages := rec.RestoreMemory
	if req.GetCopy() {
		pages = restore.Copy
	}
	var a *engine.App
	about := event.About{App: rec.Name, Snapshot: req.GetSnapshot()}
	ended, out, err := srv.tellSteps(stream, event.Restore, about, func(op *event.Operation) (out *engine.Outcome, err error) {
		a, out, err = srv.rooms.Maker.Restore(ctx, birth.RestoreRequest{
			Source: s, Record: *rec, Anywhere: req.GetEndpoint() == "" && rec.Name != s.Manifest.App, Asked: req.GetEndpoint() != "", Pages: pages, Op: op,
		})
		return out, err
	})
	if err != nil {
		return err
	}
	claim.Release() // who has the answer may remove it
	return sendResult(stream, ended, out, &api.Result{App: srv.show(a)})
}

// ListSnapshots implements the API.
func (srv *Server) ListSnapshots(ctx context.Context, _ *api.ListRequest) (*api.ListSnapshotsResponse, error) {
	all, err := srv.snapshots(ctx)
	if err != nil {
		return nil, err
	}
	return &api.ListSnapshotsResponse{Snapshots: all}, nil
}

// snapshots lists the committed snapshots by name. One that can't be read is
// listed by its name, and with what is wrong with it.
func (srv *Server) snapshots(ctx context.Context) ([]*api.Snapshot, error) {
	names, err := srv.rooms.Snapshots.Names()
	if err != nil {
		return nil, err
	}
	all := make([]*api.Snapshot, len(names))
	lookAtAll(len(names), func(i int) {
		dir, m, err := srv.rooms.Snapshots.Find(names[i])
		switch {
		case errdefs.IsNotFound(err): // it was removed meanwhile
		case err != nil:
			all[i] = &api.Snapshot{Name: names[i], WouldNotStart: showObstacles(restorable.ObstaclesOf(err))}
		case m.Passing: // an operation has made it for itself
		default:
			all[i] = showSnapshot(m)
			all[i].WouldNotStart = showObstacles(srv.rooms.Obstacles.ManifestObstacles(ctx, dir, m, snapshot.BySize))
		}
	})
	return slices.DeleteFunc(all, func(s *api.Snapshot) bool { return s == nil }), nil
}

// RemoveSnapshot implements the API.
func (srv *Server) RemoveSnapshot(_ context.Context, req *api.RemoveSnapshotRequest) (*api.RemoveResponse, error) {
	op := srv.rooms.Events.Begin(event.RemoveSnapshot, event.About{Snapshot: req.GetName()})
	err := srv.rooms.Snapshots.Remove(req.GetName())
	op.End(err)
	if err != nil {
		return nil, err
	}
	return &api.RemoveResponse{}, nil
}

// Inspect implements the API. A held app's images are inspected by its name, if
// no snapshot has it.
func (srv *Server) Inspect(ctx context.Context, req *api.InspectRequest) (*api.InspectResponse, error) {
	dir, m, err := srv.rooms.Snapshots.Find(req.GetSnapshot())
	var held *engine.App
	if errdefs.IsNotFound(err) {
		a, aerr := srv.rooms.Apps.Get(req.GetSnapshot())
		if aerr != nil {
			return nil, err
		}
		held, dir = a, a.Hibernation()
		if m, err = dir.Manifest(); errors.Is(err, os.ErrNotExist) {
			err = app.Refusef("app %s has no images: it is %s", req.GetSnapshot(), a.Status())
		}
	}
	if err != nil {
		return nil, err
	}
	info := &inspect.Info{ // of an app that had ended: arrays are never null
		Processes: []inspect.Process{}, Files: []inspect.File{}, Sockets: []inspect.Socket{}, Hosts: []inspect.Host{}, IPC: []inspect.IPC{},
		Mounts: []inspect.Mount{}, Netns: []inspect.Netns{}, Images: []inspect.ImageFile{},
	}
	if m.Processes > 0 {
		if info, err = inspect.Read(ctx, dir.Images(), m.BaseNames()...); err != nil {
			return nil, err
		}
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	shown := showSnapshot(m)
	if held != nil {
		shown.WouldNotStart = showObstacles(srv.rooms.Obstacles.AppObstacles(ctx, held, snapshot.BySize))
	} else {
		shown.WouldNotStart = showObstacles(srv.rooms.Obstacles.ManifestObstacles(ctx, dir, m, snapshot.BySize))
	}
	return &api.InspectResponse{Snapshot: shown, InfoJson: b}, nil
}
