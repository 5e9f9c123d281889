package daemon

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
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot"
)

// Run implements the API.
func (srv *server) Run(ctx context.Context, req *api.RunRequest) (*api.App, error) {
	rec, err := srv.newRecord(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	op := srv.d.events.Begin(event.Run, event.About{App: rec.Name})
	a, err := srv.d.run(ctx, *rec)
	op.End(err)
	if err != nil {
		return nil, err
	}
	return srv.show(a), nil
}

// List implements the API.
func (srv *server) List(ctx context.Context, _ *api.ListRequest) (*api.ListResponse, error) {
	// Nobody's yet are those that stand ready.
	all := slices.DeleteFunc(srv.d.apps.List(), func(a *App) bool { rec, _ := a.Read(); return rec.Pool != "" })
	resp := &api.ListResponse{Apps: make([]*api.App, len(all))}
	lookAtAll(len(all), func(i int) { resp.Apps[i] = srv.showFully(ctx, all[i]) })
	return resp, nil
}

// showFully is show with what keeps a held app from being woken.
func (srv *server) showFully(ctx context.Context, a *App) *api.App {
	out := srv.show(a)
	if out.GetStatus() == api.Status_STATUS_HELD {
		out.WouldNotStart = srv.appObstacles(ctx, a, snapshot.BySize)
	}
	return out
}

// Show implements the API.
func (srv *server) Show(ctx context.Context, req *api.AppRequest) (*api.App, error) {
	a, err := srv.d.apps.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	return srv.showFully(ctx, a), nil
}

// Hibernate implements the API.
func (srv *server) Hibernate(req *api.HibernateRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	accept, err := app.Protections(req.GetAcceptLost())
	if err != nil {
		return err
	}
	return srv.operate(stream, event.Hibernate, req.GetName(), req.GetTimeout(), func(ctx context.Context, a *App, op *event.Operation) (*outcome, error) {
		if req.GetEndSessions() {
			if err := a.endSessions(ctx); err != nil {
				return nil, err
			}
		}
		return srv.d.hibernate(ctx, a, sleep{accept: accept}, op)
	})
}

// Wake implements the API.
func (srv *server) Wake(req *api.WakeRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	return srv.operate(stream, event.Wake, req.GetName(), req.GetTimeout(), func(ctx context.Context, a *App, op *event.Operation) (*outcome, error) {
		rec, _ := a.Read()
		how := awakening{by: app.ByCommand, pages: rec.RestoreMemory, acceptChanged: rec.AcceptChanged || req.GetAcceptChangedFiles()}
		if req.GetCopy() {
			how.pages = restore.Copy
		}
		return srv.d.wakeWith(ctx, a, how, op)
	})
}

// Stop implements the API: it ends the app's program, and keeps the app's
// record, log and files.
func (srv *server) Stop(ctx context.Context, req *api.StopRequest) (*api.App, error) {
	a, err := srv.d.apps.Get(req.GetName())
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
	op := srv.d.events.Begin(event.Stop, event.About{App: req.GetName()})
	err = srv.d.stop(ctx, a, sig, grace)
	op.End(err)
	if err != nil {
		return nil, err
	}
	return srv.show(a), nil
}

// Remove implements the API.
func (srv *server) Remove(ctx context.Context, req *api.RemoveRequest) (*api.RemoveResponse, error) {
	a, err := srv.d.apps.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	op := srv.d.events.Begin(event.Remove, event.About{App: req.GetName()})
	err = srv.d.remove(ctx, a, req.GetForce())
	op.End(err)
	if err != nil {
		return nil, err
	}
	return &api.RemoveResponse{}, nil
}
