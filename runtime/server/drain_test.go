package server

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/move"
	hostdrain "github.com/snapctl/snapctl/runtime/move/drain"
	"github.com/snapctl/snapctl/vem/membership"
)

// fakeDrainer moves one app, and another one unless it is told to stop before.
type fakeDrainer struct {
	asked hostdrain.Request
	waits bool // until it is told to stop
}

func (f *fakeDrainer) Drain(ctx context.Context, req hostdrain.Request) (*hostdrain.Report, error) {
	f.asked = req
	if req.Host == "other" {
		return nil, &membership.Error{Text: "host other is drained on host other itself", Remedy: "run it there"}
	}
	moved := hostdrain.Outcome{App: "cache", Status: app.Running, To: "b", Report: &move.Report{
		App: "cache", From: "a", To: "b", Connections: 2, Lost: []checkpoint.Outcome{{Socket: "tcp 1", Reason: "it waits"}}, Notes: []string{"a note"},
	}}
	req.Told(hostdrain.Event{App: "cache", To: "b", Step: "send", Carried: move.Carried{Done: 1, Total: 2}})
	req.Told(hostdrain.Event{App: "cache", To: "b", Ended: &moved})
	r := &hostdrain.Report{Host: "a", Apps: []hostdrain.Outcome{moved, {App: "web", Err: &move.Error{App: "web", To: "b", Err: &membership.Error{Text: "no", Remedy: "do this"}}}}}
	if f.waits {
		<-ctx.Done()
		r.Stopped = true
	}
	return r, nil
}

func TestDrainHost(t *testing.T) {
	w := begin(t)
	var told []*api.DrainProgress
	tell := func(p *api.DrainProgress) { told = append(told, p) }
	r, err := w.DrainHost(t.Context(), &api.DrainRequest{To: []string{"b"}, Parallel: 3, SharedBinds: true}, nil, tell)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(w.drainer.asked.To, []string{"b"}))
	qt.Check(t, qt.Equals(w.drainer.asked.Parallel, 3))
	qt.Check(t, qt.IsTrue(w.drainer.asked.SharedBinds))
	qt.Assert(t, qt.HasLen(told, 2))
	qt.Check(t, qt.Equals(told[0].GetStep(), "send"))
	qt.Check(t, qt.Equals(told[0].GetTotalBytes(), 2))
	qt.Check(t, qt.Equals(told[1].GetEnded().GetMove().GetConnections(), 2))
	qt.Assert(t, qt.HasLen(r.GetApps(), 2))
	moved, stays := r.GetApps()[0], r.GetApps()[1]
	qt.Check(t, qt.Equals(moved.GetStatus(), "running"))
	qt.Check(t, qt.DeepEquals(moved.GetLost(), []string{"tcp 1: it waits"}))
	qt.Check(t, qt.DeepEquals(moved.GetNotes(), []string{"a note"}))
	qt.Check(t, qt.IsNil(stays.GetMove()))
	qt.Check(t, qt.Equals(stays.GetError(), "move app web to host b: no"))
	qt.Check(t, qt.Equals(stays.GetHint(), "do this"))
	qt.Check(t, qt.IsFalse(r.GetStopped()))

	// It is told to stop, and what has become of all is told then.
	w.drainer.waits = true
	stop := make(chan struct{})
	close(stop)
	r, err = w.DrainHost(t.Context(), &api.DrainRequest{DryRun: true}, stop, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(r.GetStopped()))
	qt.Check(t, qt.IsTrue(r.GetApps()[0].GetMove().GetDryRun()))

	// One that hangs up has it stop, too.
	ctx, cancel := context.WithCancel(t.Context())
	_, err = w.DrainHost(ctx, &api.DrainRequest{}, nil, func(p *api.DrainProgress) {
		if p.GetEnded() != nil {
			cancel()
		}
	})
	qt.Check(t, qt.ErrorIs(err, context.Canceled))

	_, err = w.DrainHost(t.Context(), &api.DrainRequest{Parallel: -1}, nil, nil)
	qt.Check(t, qt.IsTrue(errdefs.IsInvalidArgument(err)))
	_, err = w.DrainHost(t.Context(), &api.DrainRequest{Host: "other"}, nil, nil)
	qt.Check(t, qt.IsTrue(errdefs.IsFailedPrecondition(err)))
	var hinted interface{ Hints() []string }
	qt.Check(t, qt.IsTrue(errors.As(err, &hinted)))
}
