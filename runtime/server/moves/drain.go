package moves

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/move/drain"
)

// Drainer has this host give its apps to others, as [drain.Drainer] does.
type Drainer interface {
	Drain(ctx context.Context, req drain.Request) (*drain.Report, error)
}

// DrainHost implements the API.
func (m *Moves) DrainHost(s grpc.BidiStreamingServer[api.DrainRequest, api.DrainEvent]) error {
	req, err := s.Recv()
	if err != nil {
		return err
	}
	if req.GetParallel() < 0 {
		return fmt.Errorf("move %d apps at the same time: %w", req.GetParallel(), errdefs.ErrInvalidArgument)
	}
	ctx, stop := context.WithCancel(s.Context())
	defer stop()
	go heed(s, stop) // it ends with the request
	began := time.Now()
	r, err := m.Drainer.Drain(ctx, drain.Request{
		Host: req.GetHost(), To: req.GetTo(), Parallel: int(req.GetParallel()), DryRun: req.GetDryRun(), SharedBinds: req.GetSharedBinds(),
		Told: func(e drain.Event) {
			p := &api.DrainProgress{App: e.App, To: e.To, Step: e.Step, DoneBytes: e.Carried.Done, TotalBytes: e.Carried.Total}
			if e.Ended != nil {
				p.Ended = showDrained(e.Ended, req.GetDryRun())
			}
			// A client that has hung up is noticed by the stream's context.
			_ = s.Send(&api.DrainEvent{Event: &api.DrainEvent_Progress{Progress: p}})
		},
	})
	if err != nil {
		return err
	}
	res := &api.DrainResult{Host: r.Host, Stopped: r.Stopped, TotalUs: time.Since(began).Microseconds()}
	for i := range r.Apps {
		res.Apps = append(res.Apps, showDrained(&r.Apps[i], req.GetDryRun()))
	}
	return s.Send(&api.DrainEvent{Event: &api.DrainEvent_Result{Result: res}})
}

// heed calls stop when the client says so, or hangs up.
func heed(s grpc.BidiStreamingServer[api.DrainRequest, api.DrainEvent], stop func()) {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil || r.GetStop() {
			stop()
			return
		}
	}
}

func showDrained(o *drain.Outcome, dryRun bool) *api.DrainedApp {
	d := &api.DrainedApp{App: o.App, Status: string(o.Status)}
	if o.Err != nil {
		d.Error, d.Hint = o.Err.Error(), Hint(o.Err)
		return d
	}
	d.Move = Show(o.Report, &api.MigrateRequest{DryRun: dryRun})
	for _, l := range o.Report.Lost {
		d.Lost = append(d.Lost, l.Socket+": "+l.Reason)
	}
	d.Notes = o.Report.Notes
	return d
}
