package daemon

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot"
)

// defaultTimeout is how long an operation may take that names no other time.
const defaultTimeout = 5 * time.Minute

// Run implements the API.
func (d *Daemon) Run(ctx context.Context, req *api.RunRequest) (*api.App, error) {
	rec, err := d.newRecord(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	op := d.events.Begin(event.Run, event.About{App: rec.Name})
	a, err := d.run(ctx, *rec)
	op.End(err)
	if err != nil {
		return nil, err
	}
	return d.show(a), nil
}

// List implements the API.
func (d *Daemon) List(ctx context.Context, _ *api.ListRequest) (*api.ListResponse, error) {
	// Nobody's yet are those that stand ready.
	all := slices.DeleteFunc(d.list(), func(a *App) bool { rec, _ := a.read(); return rec.Pool != "" })
	resp := &api.ListResponse{Apps: make([]*api.App, len(all))}
	lookAtAll(len(all), func(i int) { resp.Apps[i] = d.showFully(ctx, all[i]) })
	return resp, nil
}

// showFully is show with what keeps a held app from being woken.
func (d *Daemon) showFully(ctx context.Context, a *App) *api.App {
	out := d.show(a)
	if out.GetStatus() == api.Status_STATUS_HELD {
		out.WouldNotStart = d.appObstacles(ctx, a, snapshot.BySize)
	}
	return out
}

// Show implements the API.
func (d *Daemon) Show(ctx context.Context, req *api.AppRequest) (*api.App, error) {
	a, err := d.find(req.GetName())
	if err != nil {
		return nil, err
	}
	return d.showFully(ctx, a), nil
}

// Hibernate implements the API.
func (d *Daemon) Hibernate(req *api.HibernateRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	accept, err := app.Protections(req.GetAcceptLost())
	if err != nil {
		return err
	}
	return d.operate(stream, event.Hibernate, req.GetName(), req.GetTimeout(), func(ctx context.Context, a *App, op *event.Operation) (*outcome, error) {
		if req.GetEndSessions() {
			if err := a.endSessions(ctx); err != nil {
				return nil, err
			}
		}
		return d.hibernate(ctx, a, sleep{accept: accept}, op)
	})
}

// Wake implements the API.
func (d *Daemon) Wake(req *api.WakeRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	return d.operate(stream, event.Wake, req.GetName(), req.GetTimeout(), func(ctx context.Context, a *App, op *event.Operation) (*outcome, error) {
		rec, _ := a.read()
		how := awakening{by: app.ByCommand, pages: rec.RestoreMemory, acceptChanged: rec.AcceptChanged || req.GetAcceptChangedFiles()}
		if req.GetCopy() {
			how.pages = restore.Copy
		}
		return d.wakeWith(ctx, a, how, op)
	})
}

// operation is a long operation on one app.
type operation func(ctx context.Context, a *App, op *event.Operation) (*outcome, error)

// operate runs a long operation and streams its steps and its result.
func (d *Daemon) operate(stream grpc.ServerStreamingServer[api.Event], kind event.Kind, appName string, timeout *durationpb.Duration, do operation) error {
	a, err := d.find(appName)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(timeout))
	defer cancel()
	ended, out, err := d.tellSteps(stream, kind, event.About{App: appName}, func(op *event.Operation) (*outcome, error) { return do(ctx, a, op) })
	if err != nil {
		return err
	}
	return sendResult(stream, ended, out, &api.Result{App: d.show(a)})
}

// TakeSnapshot implements the API.
func (d *Daemon) TakeSnapshot(req *api.SnapshotRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	accept, err := app.Protections(req.GetAcceptLost())
	if err != nil {
		return err
	}
	a, err := d.find(req.GetApp())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(req.GetTimeout()))
	defer cancel()
	var m *snapshot.Manifest
	about := event.About{App: req.GetApp(), Snapshot: req.GetName()}
	ended, out, err := d.tellSteps(stream, event.Snapshot, about, func(op *event.Operation) (out *outcome, err error) {
		if req.GetEndSessions() {
			if err := a.endSessions(ctx); err != nil {
				return nil, err
			}
		}
		m, out, err = d.takeSnapshot(ctx, a, snapshotRequest{name: req.GetName(), stop: req.GetStop(), accept: accept, op: op})
		if err == nil {
			op.Saved(m.Name)
		}
		return out, err
	})
	if err != nil {
		return err
	}
	return sendResult(stream, ended, out, &api.Result{App: d.show(a), Snapshot: showSnapshot(m)})
}

// Restore implements the API.
func (d *Daemon) Restore(req *api.RestoreRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(req.GetTimeout()))
	defer cancel()
	free, err := d.restoring(req.GetSnapshot())
	if err != nil {
		return err
	}
	defer free()
	s, err := d.beginSnapshot(ctx, req.GetSnapshot(), snapshot.ByStamp)
	if err != nil {
		return err
	}
	defer s.Close()
	rec, err := restoredRecord(req, s.manifest)
	if err != nil {
		return err
	}
	pages := rec.RestoreMemory
	if req.GetCopy() {
		pages = restore.Copy
	}
	var a *App
	about := event.About{App: rec.Name, Snapshot: req.GetSnapshot()}
	ended, out, err := d.tellSteps(stream, event.Restore, about, func(op *event.Operation) (out *outcome, err error) {
		a, out, err = d.restoreSnapshot(ctx, restoreRequest{
			source: s, record: *rec, anywhere: req.GetEndpoint() == "" && rec.Name != s.manifest.App, pages: pages, op: op,
		})
		return out, err
	})
	if err != nil {
		return err
	}
	free() // who has the answer may remove it
	return sendResult(stream, ended, out, &api.Result{App: d.show(a)})
}

// ListSnapshots implements the API.
func (d *Daemon) ListSnapshots(ctx context.Context, _ *api.ListRequest) (*api.ListSnapshotsResponse, error) {
	all, err := d.snapshots(ctx)
	if err != nil {
		return nil, err
	}
	return &api.ListSnapshotsResponse{Snapshots: all}, nil
}

// RemoveSnapshot implements the API.
func (d *Daemon) RemoveSnapshot(_ context.Context, req *api.RemoveSnapshotRequest) (*api.RemoveResponse, error) {
	op := d.events.Begin(event.RemoveSnapshot, event.About{Snapshot: req.GetName()})
	err := d.removeSnapshot(req.GetName())
	op.End(err)
	if err != nil {
		return nil, err
	}
	return &api.RemoveResponse{}, nil
}

func timeoutOf(d *durationpb.Duration) time.Duration {
	if t := d.AsDuration(); t > 0 {
		return t
	}
	return defaultTimeout
}

func sendResult(stream grpc.ServerStreamingServer[api.Event], ended event.Event, out *outcome, res *api.Result) error {
	res.FrozenUs = ended.Frozen.Microseconds()
	res.TotalUs = ended.Took.Microseconds()
	res.Sockets = showOutcomes(out.sockets)
	res.Notes = showNotes(out.notes)
	res.StepsUs = stepsMicroseconds(&ended)
	return stream.Send(&api.Event{Event: &api.Event_Result{Result: res}})
}
