package daemon

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/event"
)

// defaultTimeout is how long an operation may take that names no other time.
const defaultTimeout = 5 * time.Minute

// server turns requests of the API into calls, and what comes of them into messages. It has
// no state of its own.
type server struct {
	api.UnimplementedSnapctlServer
	d *Daemon
}

// operation is a long operation on one app.
type operation func(ctx context.Context, a *App, op *event.Operation) (*outcome, error)

// operate runs a long operation and streams its steps and its result.
func (srv *server) operate(stream grpc.ServerStreamingServer[api.Event], kind event.Kind, appName string, timeout *durationpb.Duration, do operation) error {
	a, err := srv.d.apps.Get(appName)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(timeout))
	defer cancel()
	ended, out, err := srv.tellSteps(stream, kind, event.About{App: appName}, func(op *event.Operation) (*outcome, error) { return do(ctx, a, op) })
	if err != nil {
		return err
	}
	return sendResult(stream, ended, out, &api.Result{App: srv.show(a)})
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
