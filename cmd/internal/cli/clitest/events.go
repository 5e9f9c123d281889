package clitest

import (
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
)

// Happened is what the fake daemon tells of the past: one event a second since it Began.
var Happened = []*api.EventRecord{
	{Type: "begun", App: "cache", Operation: "hibernate", OperationId: 1},
	{Type: "ended", App: "cache", Operation: "hibernate", OperationId: 1, TookUs: 91_000, FrozenUs: 64_200, StepsUs: map[string]int64{"freeze": 1_200}},
	{Type: "begun", App: "cache", Operation: "wake", OperationId: 3, Reason: "data"},
	{Type: "woken", App: "cache", Reason: "data"},
	{Type: "ended", App: "cache", Operation: "wake", OperationId: 3, Reason: "data", TookUs: 18_000},
	{Type: "ended", App: "web-1", Template: "web", Operation: "clone", OperationId: 6, WithinId: 5, TookUs: 7_000, Error: "no room"},
	{Type: "exited", App: "web-2", Reason: "exit code 1"},
	{Type: "refilled"},
}

// Events filters by app and type only. Who follows gets a step, too, if it wants steps,
// and one event that was missed; then nothing any more.
func (f server) Events(req *api.EventsRequest, out grpc.ServerStreamingServer[api.EventRecord]) error {
	send := func(i int, e *api.EventRecord) error {
		e = &api.EventRecord{
			Number: uint64(i + 1), At: timestamppb.New(Began.Add(time.Duration(i) * time.Second)), Type: e.GetType(), App: e.GetApp(), Template: e.GetTemplate(),
			Operation: e.GetOperation(), OperationId: e.GetOperationId(), WithinId: e.GetWithinId(), Reason: e.GetReason(), Step: e.GetStep(),
			TookUs: e.GetTookUs(), FrozenUs: e.GetFrozenUs(), StepsUs: e.GetStepsUs(), Error: e.GetError(), Missed: e.GetMissed(),
		}
		if req.GetSince() != nil && e.GetAt().AsTime().Before(req.GetSince().AsTime()) ||
			len(req.GetApps()) > 0 && !slices.Contains(req.GetApps(), e.GetApp()) ||
			len(req.GetTypes()) > 0 && !slices.Contains(req.GetTypes(), e.GetType()) {
			return nil
		}
		return out.Send(e)
	}
	for i, e := range Happened {
		if err := send(i, e); err != nil {
			return err
		}
	}
	if !req.GetFollow() {
		return nil
	}
	if req.GetSteps() {
		if err := send(len(Happened), &api.EventRecord{Type: "step", App: "cache", Operation: "snapshot", OperationId: 8, Step: "freeze"}); err != nil {
			return err
		}
	}
	if err := send(len(Happened)+1, &api.EventRecord{Type: "missed", Missed: 12}); err != nil {
		return err
	}
	<-out.Context().Done()
	return out.Context().Err()
}
