// Package server turns requests of the API into calls of the rooms below it, and what comes of them
// into messages. It alone knows gRPC's codes, and the words by which users are told what to do.
//
// What it asks of other rooms is in small interfaces of its own, see [Rooms].
package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/server/beyond"
	"github.com/snapctl/snapctl/runtime/server/facts"
	"github.com/snapctl/snapctl/runtime/server/moves"
	"github.com/snapctl/snapctl/runtime/server/transfers"
	"github.com/snapctl/snapctl/runtime/server/upkeep"
	"github.com/snapctl/snapctl/runtime/server/ways"
)

// Options is what the server tells of the daemon that it is part of.
type Options struct {
	Version          string
	StateDir, RunDir string
	CRIU             string // the path of the program
	CRIUVersion      int
	Cgroup           string // of the daemon, its path within each hierarchy
	CgroupDir        string // its directory in the hierarchy of cgroup v2
}

// Server answers requests with what its rooms have and do. It has no state of its own.
type Server struct {
	unimplemented
	*ways.Service        // what is about the ways to other hosts
	*beyond.Desk         // what is about others than endpoints
	*upkeep.Requests     // what is about the directory
	*transfers.Transfers // to and from other hosts
	facts.Facts          // about this host
	*moves.Moves         // about hosts that apps move to
	rooms                Rooms
	opt                  Options
}

// unimplemented is a level further down than all methods that there are, so that these count.
type unimplemented struct{ api.UnimplementedSnapctlServer }

// NewService returns what answers the requests of the API.
func NewService(rooms Rooms, opt Options) *Server {
	netPath := func(name string) (string, error) {
		a, err := rooms.Apps.Get(name)
		if err != nil {
			return "", err
		}
		return a.Box.NetPath(), nil
	}
	return &Server{Service: &ways.Service{Ways: rooms.Ways, NetPath: netPath}, Desk: &beyond.Desk{Gateway: rooms.Hosts}, Requests: &upkeep.Requests{Directory: rooms.Directory, Installation: rooms.Hosts}, Transfers: &transfers.Transfers{Courier: rooms.Courier}, Moves: &moves.Moves{Hosts: rooms.Hosts, Drainer: rooms.Drainer}, rooms: rooms, opt: opt}
}

// New returns a server of gRPC, to serve a listener with. Every error that the service returns gets its gRPC
// code and, where there is one, a hint. Its Stop waits for the requests.
func New(service api.SnapctlServer, more ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(append(append(interceptors(), more...), grpc.WaitForHandlers(true))...)
	api.RegisterSnapctlServer(s, service)
	return s
}

// operation is a long operation on one app.
type operation func(ctx context.Context, a *engine.App, op *event.Operation) (*engine.Outcome, error)

// operate runs a long operation and streams its steps and its result.
func (srv *Server) operate(stream grpc.ServerStreamingServer[api.Event], kind event.Kind, appName string, timeout *durationpb.Duration, do operation) error {
	a, err := srv.rooms.Apps.Get(appName)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(timeout))
	defer cancel()
	ended, out, err := srv.tellSteps(stream, kind, event.About{App: appName}, func(op *event.Operation) (*engine.Outcome, error) { return do(ctx, a, op) })
	if err != nil {
		return err
	}
	return sendResult(stream, ended, out, &api.Result{App: srv.show(a)})
}

func timeoutOf(d *durationpb.Duration) time.Duration {
	if t := d.AsDuration(); t > 0 {
		return t
	}
	return engine.DefaultTimeout
}

func sendResult(stream grpc.ServerStreamingServer[api.Event], ended event.Event, out *engine.Outcome, res *api.Result) error {
	res.FrozenUs = ended.Frozen.Microseconds()
	res.TotalUs = ended.Took.Microseconds()
	res.Sockets = showOutcomes(out.Sockets)
	res.Notes = showNotes(out.Notes)
	res.StepsUs = stepsMicroseconds(&ended)
	return stream.Send(&api.Event{Event: &api.Event_Result{Result: res}})
}
