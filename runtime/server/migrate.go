package server

import (
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/move"
	"github.com/snapctl/snapctl/runtime/server/moves"
)

// Migrate implements the API.
func (srv *Server) Migrate(req *api.MigrateRequest, s grpc.ServerStreamingServer[api.Event]) error {
	a, err := srv.rooms.Apps.Get(req.GetName())
	if err != nil {
		return err
	}
	stream := &moves.OneByOne{ServerStreamingServer: s}
	var report *move.Report
	ended, out, err := srv.tellSteps(stream, event.Migrate, event.About{App: req.GetName(), Reason: "to host " + req.GetHost()}, func(op *event.Operation) (out *engine.Outcome, err error) {
		report, out, err = moves.Do(stream.Context(), srv.rooms.Mover, a, req, op, stream)
		return out, err
	})
	if err != nil {
		return err
	}
	return sendResult(stream, ended, out, &api.Result{App: srv.show(a), Move: moves.Show(report, req)})
}
