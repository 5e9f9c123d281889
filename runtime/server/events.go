package server

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
)

// tellSteps runs an operation, tells a client each of its steps, and returns how it ended.
// A client that has hung up is noticed by the stream's context.
func (srv *Server) tellSteps(
	stream grpc.ServerStreamingServer[api.Event], kind event.Kind, about event.About, do func(op *event.Operation) (*engine.Outcome, error),
) (event.Event, *engine.Outcome, error) {
	op := srv.rooms.Events.Begin(kind, about)
	steps := event.Filter{Operation: op.ID(), Types: []event.Type{event.Step}}
	told := srv.rooms.Events.Listen(stream.Context(), event.Options{Filter: steps}, func(e event.Event) {
		_ = stream.Send(&api.Event{Event: &api.Event_Progress{Progress: &api.Progress{Step: e.Step}}})
	})
	out, err := do(op)
	ended := op.End(err)
	told()
	return ended, out, err
}

// Events implements the API.
func (srv *Server) Events(req *api.EventsRequest, stream grpc.ServerStreamingServer[api.EventRecord]) error {
	filter, err := eventFilter(req)
	if err != nil {
		return err
	}
	if !req.GetFollow() {
		for _, e := range srv.rooms.Events.Recent(filter) {
			if err := stream.Send(showEvent(&e)); err != nil {
				return err
			}
		}
		return nil
	}
	sub := srv.rooms.Events.Subscribe(event.Options{Filter: filter, Recent: true})
	defer sub.Close()
	for {
		e, ok := sub.Next(stream.Context())
		if !ok {
			return stream.Context().Err()
		}
		if err := stream.Send(showEvent(&e)); err != nil {
			return err
		}
	}
}

// eventFilter reads what a client wants to know.
func eventFilter(req *api.EventsRequest) (f event.Filter, err error) {
	f.Apps = req.GetApps()
	if req.GetSince() != nil {
		f.Since = req.GetSince().AsTime()
	}
	if f.Kinds, err = words("operation", req.GetOperations(), event.Kinds()); err != nil {
		return f, err
	}
	if f.Types, err = words("type", req.GetTypes(), event.Types()); err != nil {
		return f, err
	}
	if len(f.Types) == 0 {
		f.Types = event.Types()
	}
	if !req.GetSteps() {
		f.Types = slices.DeleteFunc(f.Types, func(t event.Type) bool { return t == event.Step })
	}
	return f, nil
}

// words are those of a list, each of which has to be a known one.
func words[T ~string](what string, list []string, known []T) ([]T, error) {
	var all []T
	for _, text := range list {
		if !slices.Contains(known, T(text)) {
			return nil, fmt.Errorf("%s %q: %w: no event has it", what, text, errdefs.ErrInvalidArgument)
		}
		all = append(all, T(text))
	}
	return all, nil
}

func showEvent(e *event.Event) *api.EventRecord {
	out := &api.EventRecord{
		Number: e.Number, At: timestamppb.New(e.At), Type: string(e.Type), App: e.App, Template: e.Template, Snapshot: e.Snapshot, Reason: e.Reason,
		Operation: string(e.Kind), OperationId: uint64(e.Operation), WithinId: uint64(e.Within), Step: e.Step,
		TookUs: e.Took.Microseconds(), FrozenUs: e.Frozen.Microseconds(), StepsUs: stepsMicroseconds(e), Missed: e.Missed,
	}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	return out
}

// stepsMicroseconds are the durations of an operation's steps as the API has them.
func stepsMicroseconds(ended *event.Event) map[string]int64 {
	steps := make(map[string]int64, len(ended.Steps))
	for name, took := range ended.Steps {
		steps[name] = took.Microseconds()
	}
	return steps
}
