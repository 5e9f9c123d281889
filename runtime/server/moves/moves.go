// Package moves turns requests to move apps into calls, and what became of them into messages.
package moves

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/move"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Mover moves apps, as [move.Mover] does.
type Mover interface {
	Migrate(ctx context.Context, a *engine.App, req move.Request) (*move.Report, error)
}

// Code is gRPC's code of an error of a move, [codes.OK] of any other one.
func Code(err error) codes.Code {
	if _, ok := errors.AsType[*move.Error](err); !ok {
		return codes.OK
	}
	if _, refused := errors.AsType[*message.RefusedError](err); refused {
		return codes.FailedPrecondition
	}
	return codes.OK
}

// Hint is what to do about an error of a move; empty for any other one.
func Hint(err error) string {
	if e, ok := errors.AsType[*move.Error](err); ok {
		return e.Remedy()
	}
	return ""
}

// Do moves an app as a request says. tell is told how much was sent. Without a timeout of the request it may be
// sent as long as it takes.
func Do(ctx context.Context, m Mover, a *engine.App, req *api.MigrateRequest, op *event.Operation, tell *OneByOne) (*move.Report, *engine.Outcome, error) {
	accept, err := app.Protections(req.GetAcceptLost())
	if err != nil {
		return nil, nil, err
	}
	if t := req.GetTimeout().AsDuration(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t)
		defer cancel()
	}
	r, err := m.Migrate(ctx, a, move.Request{
		To: req.GetHost(), DryRun: req.GetDryRun(), Force: req.GetForce(), SharedBinds: req.GetSharedBinds(), Wake: req.GetWake(), Accept: accept, Op: op,
		Bandwidth: req.GetBandwidthBytes(), MaxPause: req.GetMaxPause().AsDuration(),
		Told: func(c move.Carried) {
			// A client that has hung up is noticed by the stream's context.
			_ = tell.Send(&api.Event{Event: &api.Event_Progress{Progress: &api.Progress{Step: "send", DoneBytes: c.Done, TotalBytes: c.Total}}})
		},
	})
	if err != nil {
		return nil, nil, err
	}
	out := &engine.Outcome{Sockets: r.Lost}
	for _, n := range r.Notes {
		out.Notes = append(out.Notes, app.Note{Text: n})
	}
	return r, out, nil
}

// Show has a report as a message.
func Show(r *move.Report, req *api.MigrateRequest) *api.Move {
	rounds := make([]*api.Round, len(r.Rounds))
	for i, o := range r.Rounds {
		rounds[i] = &api.Round{SentBytes: o.Sent, SavedBytes: o.Saved, FrozenUs: o.Frozen.Microseconds(), TookUs: o.Took.Microseconds()}
	}
	return &api.Move{
		Rounds: rounds,
		App:    r.App, From: r.From, To: r.To, DryRun: req.GetDryRun(), SentBytes: r.Sent, SavedBytes: r.Saved, PauseUs: r.Pause.Microseconds(),
		StoodUs: r.Stood.Microseconds(), WokenUs: r.Woken.Microseconds(), Connections: int32(r.Connections), Trouble: r.Trouble, //nolint:gosec // a host has fewer
	}
}

// OneByOne is a stream that several goroutines send to.
type OneByOne struct {
	grpc.ServerStreamingServer[api.Event]

	mu sync.Mutex // held while one sends
}

// Send implements the stream.
func (s *OneByOne) Send(e *api.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ServerStreamingServer.Send(e)
}
