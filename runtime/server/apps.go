package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/snapshot"
)

// Run implements the API.
func (srv *Server) Run(ctx context.Context, req *api.RunRequest) (*api.App, error) {
	rec, err := srv.newRecord(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, engine.DefaultTimeout)
	defer cancel()
	op := srv.rooms.Events.Begin(event.Run, event.About{App: rec.Name})
	a, err := srv.rooms.Operations.Run(ctx, *rec)
	op.End(err)
	if err != nil {
		return nil, err
	}
	return srv.show(a), nil
}

// List implements the API.
func (srv *Server) List(ctx context.Context, _ *api.ListRequest) (*api.ListResponse, error) {
	// Nobody's yet are those that stand ready.
	all := slices.DeleteFunc(srv.rooms.Apps.List(), func(a *engine.App) bool { rec, _ := a.Read(); return rec.Pool != "" })
	resp := &api.ListResponse{Apps: make([]*api.App, len(all))}
	lookAtAll(len(all), func(i int) { resp.Apps[i] = srv.showFully(ctx, all[i]) })
	return resp, nil
}

// showFully is show with what keeps a held app from being woken.
func (srv *Server) showFully(ctx context.Context, a *engine.App) *api.App {
	out := srv.show(a)
	if out.GetStatus() == api.Status_STATUS_HELD {
		out.WouldNotStart = showObstacles(restorable.ObstaclesOf(a.Endpoint.Admitted()))
		out.WouldNotStart = append(out.WouldNotStart, showObstacles(srv.rooms.Obstacles.AppObstacles(ctx, a, snapshot.BySize))...)
	}
	return out
}

// Show implements the API.
func (srv *Server) Show(ctx context.Context, req *api.AppRequest) (*api.App, error) {
	a, err := srv.rooms.Apps.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	return srv.showFully(ctx, a), nil
}

// Hibernate implements the API.
func (srv *Server) Hibernate(req *api.HibernateRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	accept, err := app.Protections(req.GetAcceptLost())
	if err != nil {
		return err
	}
	return srv.operate(stream, event.Hibernate, req.GetName(), req.GetTimeout(), func(ctx context.Context, a *engine.App, op *event.Operation) (*engine.Outcome, error) {
		if req.GetEndSessions() {
			if err := a.EndSessions(ctx); err != nil {
				return nil, err
			}
		}
		return srv.rooms.Operations.Hibernate(ctx, a, engine.Sleep{Accept: accept, IfQuiet: req.GetIfQuiet()}, op)
	})
}

// Wake implements the API.
func (srv *Server) Wake(req *api.WakeRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	return srv.operate(stream, event.Wake, req.GetName(), req.GetTimeout(), func(ctx context.Context, a *engine.App, op *event.Operation) (*engine.Outcome, error) {
		rec, _ := a.Read()
		how := engine.Awakening{By: app.ByCommand, Pages: rec.RestoreMemory, AcceptChanged: rec.AcceptChanged || req.GetAcceptChangedFiles()}
		if req.GetCopy() {
			how.Pages = restore.Copy
		}
		return srv.rooms.Operations.Wake(ctx, a, how, op)
	})
}

// Stop implements the API: it ends the app's program, and keeps the app's
// record, log and files.
func (srv *Server) Stop(ctx context.Context, req *api.StopRequest) (*api.App, error) {
	a, err := srv.rooms.Apps.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	sig := unix.SIGTERM
	if text := req.GetSignal(); text != "" {
		name := strings.ToUpper(text)
		if !strings.HasPrefix(name, "SIG") {
			name = "SIG" + name
		}
		if sig = unix.SignalNum(name); sig == 0 {
			return nil, fmt.Errorf("signal %q: %w: no such signal", text, errdefs.ErrInvalidArgument)
		}
	}
	grace := cmp.Or(req.GetTimeout().AsDuration(), 10*time.Second)
	op := srv.rooms.Events.Begin(event.Stop, event.About{App: req.GetName()})
	err = srv.rooms.Operations.Stop(ctx, a, sig, grace)
	op.End(err)
	if err != nil {
		return nil, err
	}
	return srv.show(a), nil
}

// Remove implements the API.
func (srv *Server) Remove(ctx context.Context, req *api.RemoveRequest) (*api.RemoveResponse, error) {
	a, err := srv.rooms.Apps.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	op := srv.rooms.Events.Begin(event.Remove, event.About{App: req.GetName()})
	err = srv.rooms.Operations.Remove(ctx, a, req.GetForce())
	op.End(err)
	if err != nil {
		return nil, err
	}
	return &api.RemoveResponse{}, nil
}
