package afar

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/runtime/courier"
	"github.com/snapctl/snapctl/runtime/server/transfers"
)

// Restore implements the API: on another host, if the request names one.
func (s *Service) Restore(req *api.RestoreRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	if !s.elsewhere(req.GetHost()) {
		return s.SnapctlServer.Restore(req, stream)
	}
	return hinting(stream, s.restoreThere(req, stream))
}

// restoreThere has another host get a snapshot, and make an app of it. If it makes none it does not keep what it
// got.
func (s *Service) restoreThere(req *api.RestoreRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	began := time.Now()
	host, tell := req.GetHost(), &teller{send: stream.Send}
	ctx, patience := begin(stream.Context(), req.GetTimeout())
	defer patience.end()
	guest, err := s.opt.Courier.Bring(ctx, courier.Request{Snapshot: req.GetSnapshot(), Host: host, Progress: tell.sent})
	if err != nil {
		return patience.why(err)
	}
	defer guest.Close()
	brought := time.Since(began)
	c, err := s.opt.Hosts.Dial(ctx, host)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // it says that it was closed before
	there := proto.CloneOf(req)
	there.Host, there.Timeout = "", patience.rest()
	events, err := api.NewSnapctlClient(c).Restore(ctx, there)
	if err != nil {
		return answered(host, err, nil)
	}
	var result *api.Result
	for {
		e, err := events.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return answered(host, err, events.Trailer())
		}
		if e.GetResult() == nil {
			_ = tell.event(e) // a client that has hung up is noticed by the stream's context
			continue
		}
		result = e.GetResult()
	}
	if result == nil {
		return fmt.Errorf("host %s: it did not say what became of it", host)
	}
	if err := guest.Keep(); err != nil { // it made the app all the same
		result.Notes = append(result.Notes, &api.Note{Text: err.Error(), Remedy: "the app does not need it"})
	}
	result.TotalUs += brought.Microseconds()
	result.Host, result.Sent = host, transfers.Show(guest.Progress)
	return tell.event(&api.Event{Event: &api.Event_Result{Result: result}})
}

// teller tells a client how it goes on, one event after the other.
type teller struct {
	send func(*api.Event) error

	mu sync.Mutex // held while something is sent
}

func (t *teller) event(e *api.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.send(e)
}

// sent tells how much was sent. A client that has hung up is noticed by the stream's context.
func (t *teller) sent(p cargo.Progress) {
	_ = t.event(&api.Event{Event: &api.Event_Progress{Progress: &api.Progress{Step: "send", DoneBytes: p.DoneBytes, TotalBytes: p.TotalBytes}}})
}
