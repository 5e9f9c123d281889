package daemon

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
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
	a, err := logged(ctx, d, "run", rec.Name, func() (*App, error) { return d.run(ctx, *rec) })
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
	return d.operate(stream, "hibernate", req.GetName(), req.GetTimeout(), func(ctx context.Context, a *App, tell func(string)) (*outcome, error) {
		if req.GetEndSessions() {
			if err := a.endSessions(ctx); err != nil {
				return nil, err
			}
		}
		return d.hibernate(ctx, a, sleep{accept: accept}, tell)
	})
}

// Wake implements the API.
func (d *Daemon) Wake(req *api.WakeRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	return d.operate(stream, "wake", req.GetName(), req.GetTimeout(), func(ctx context.Context, a *App, tell func(string)) (*outcome, error) {
		rec, _ := a.read()
		how := awakening{by: app.ByCommand, pages: rec.RestoreMemory, acceptChanged: rec.AcceptChanged || req.GetAcceptChangedFiles()}
		if req.GetCopy() {
			how.pages = restore.Copy
		}
		return d.wakeWith(ctx, a, how, tell)
	})
}

// operation is a long operation on one app.
type operation func(ctx context.Context, a *App, tell func(string)) (*outcome, error)

// operate runs a long operation and streams its steps and its result.
func (d *Daemon) operate(stream grpc.ServerStreamingServer[api.Event], name, appName string, timeout *durationpb.Duration, op operation) error {
	a, err := d.find(appName)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(timeout))
	defer cancel()
	began := time.Now()
	out, err := logged(ctx, d, name, appName, func() (*outcome, error) { return op(ctx, a, progress(stream)) })
	if err != nil {
		return err
	}
	return sendResult(stream, began, out, &api.Result{App: d.show(a)})
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
	began := time.Now()
	var m *snapshot.Manifest
	out, err := logged(ctx, d, "snapshot", req.GetApp(), func() (out *outcome, err error) {
		if req.GetEndSessions() {
			if err := a.endSessions(ctx); err != nil {
				return nil, err
			}
		}
		m, out, err = d.takeSnapshot(ctx, a, snapshotRequest{name: req.GetName(), stop: req.GetStop(), accept: accept, tell: progress(stream)})
		return out, err
	})
	if err != nil {
		return err
	}
	return sendResult(stream, began, out, &api.Result{App: d.show(a), Snapshot: showSnapshot(m)})
}

// Restore implements the API.
func (d *Daemon) Restore(req *api.RestoreRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(req.GetTimeout()))
	defer cancel()
	began := time.Now()
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
	out, err := logged(ctx, d, "restore", rec.Name, func() (out *outcome, err error) {
		a, out, err = d.restoreSnapshot(ctx, restoreRequest{
			source: s, record: *rec, anywhere: req.GetEndpoint() == "" && rec.Name != s.manifest.App, pages: pages, tell: progress(stream),
		})
		return out, err
	})
	if err != nil {
		return err
	}
	free() // who has the answer may remove it
	return sendResult(stream, began, out, &api.Result{App: d.show(a)})
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
	if err := d.removeSnapshot(req.GetName()); err != nil {
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

// progress sends each step to the client; a client that has hung up is noticed
// by the stream's context.
func progress(stream grpc.ServerStreamingServer[api.Event]) func(string) {
	return func(step string) {
		_ = stream.Send(&api.Event{Event: &api.Event_Progress{Progress: &api.Progress{Step: step}}})
	}
}

func sendResult(stream grpc.ServerStreamingServer[api.Event], began time.Time, out *outcome, res *api.Result) error {
	res.FrozenUs = out.frozen.Microseconds()
	res.TotalUs = time.Since(began).Microseconds()
	res.Sockets = showOutcomes(out.sockets)
	res.Notes = showNotes(out.notes)
	res.StepsUs = make(map[string]int64, len(out.steps))
	for name, took := range out.steps {
		res.StepsUs[name] = took.Microseconds()
	}
	return stream.Send(&api.Event{Event: &api.Event_Result{Result: res}})
}

// logged runs an operation and logs one line when it has finished.
func logged[T any](ctx context.Context, d *Daemon, op, name string, fn func() (T, error)) (T, error) {
	began := time.Now()
	v, err := fn()
	if err != nil {
		d.log.ErrorContext(ctx, "operation failed", slog.String("operation", op), slog.String("app", name), slog.Duration("took", time.Since(began)), slog.String("error", withDetails(err)))
	} else {
		d.log.InfoContext(ctx, "operation finished", slog.String("operation", op), slog.String("app", name), slog.Duration("took", time.Since(began)))
	}
	return v, err
}
