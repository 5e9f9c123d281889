package afar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/courier"
)

// Clone implements the API: on this host, on another one, or on all that are alive.
func (s *Service) Clone(req *api.CloneRequest, stream grpc.ServerStreamingServer[api.CloneEvent]) error {
	if s.opt.Hosts.Self() == "" && req.GetHost() == "" && !req.GetSpread() {
		return s.SnapctlServer.Clone(req, stream)
	}
	req = proto.CloneOf(req)
	req.Least = s.least(stream.Context(), req)
	switch {
	case req.GetSpread():
		return hinting(stream, s.spread(req, stream))
	case s.elsewhere(req.GetHost()):
		return hinting(stream, s.cloneThere(req, stream))
	default:
		return s.SnapctlServer.Clone(req, stream)
	}
}

// least is the first number with which no app of the installation has a name, as far as this host knows: names are one
// app's in all of it.
func (s *Service) least(ctx context.Context, req *api.CloneRequest) int32 {
	p, err := pattern(req)
	if err != nil || len(req.GetNames()) > 0 {
		return 0 // the host that makes them says what is wrong
	}
	known, err := s.Resolve(ctx, &api.ResolveRequest{})
	if err != nil {
		return 0 // the directory was never reached: a name that is taken is refused
	}
	var list []string
	for _, e := range known.GetFound() {
		list = append(list, e.GetApp())
	}
	return int32(p.Next(list)) //nolint:gosec // at most a million and one, see package template
}

// cloneThere has another host make all clones of a request. It is as if this host made them: all or none, unless the
// request says to keep going.
func (s *Service) cloneThere(req *api.CloneRequest, stream grpc.ServerStreamingServer[api.CloneEvent]) error {
	ctx, p := begin(stream.Context(), req.GetTimeout())
	defer p.end()
	one := part{host: req.GetHost(), count: countOf(req), req: proto.CloneOf(req)}
	one.req.Host = ""
	summary, err := s.make(ctx, p, one, stream.Send)
	if err != nil {
		return err
	}
	return stream.Send(&api.CloneEvent{Event: &api.CloneEvent_Summary{Summary: summary}})
}

// make has a host make its part of a request, and tells how it goes on. A host that lacks the template gets it, and
// keeps it if it makes a clone.
func (s *Service) make(ctx context.Context, p *patience, one part, tell func(*api.CloneEvent) error) (*api.CloneSummary, error) {
	keep := func() error { return nil }
	if s.elsewhere(one.host) {
		guest, err := s.opt.Courier.Bring(ctx, courier.Request{Template: one.req.GetTemplate(), Host: one.host})
		if err != nil {
			return nil, p.why(err)
		}
		defer guest.Close()
		keep = guest.Keep
	}
	c, err := s.opt.Hosts.Dial(ctx, one.host)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // it says that it was closed before
	one.req.Timeout = p.rest()
	events, err := api.NewSnapctlClient(c).Clone(ctx, one.req)
	if err != nil {
		return nil, answered(one.host, err, nil)
	}
	var summary *api.CloneSummary
	for {
		e, err := events.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, answered(one.host, err, events.Trailer())
		}
		if e.GetSummary() != nil {
			summary = e.GetSummary()
			continue
		}
		if r := e.GetResult(); r != nil {
			r.Host = one.host
			if r.GetError() != "" {
				r.Error = fmt.Sprintf("host %s: %s", one.host, r.GetError())
			}
		}
		if err := tell(e); err != nil {
			return nil, err
		}
	}
	if summary == nil {
		return nil, fmt.Errorf("host %s: it did not say what became of the clones", one.host)
	}
	if summary.GetMade() > 0 {
		if err := keep(); err != nil { // it has clones, so it stays
			summary.Notes = append(summary.Notes, err.Error())
		}
	}
	return summary, nil
}

// report is what a client is told of a request that several hosts do parts of.
type report struct {
	mu    sync.Mutex // guards what follows, and is held while something is sent
	send  func(*api.CloneEvent) error
	total *api.CloneSummary
}

// tell tells the client of one clone, or how a part goes on.
func (r *report) tell(e *api.CloneEvent) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.send(e)
}

// made tells of the clones of a part that is done, and takes them into account.
func (r *report) made(events []*api.CloneEvent, s *api.CloneSummary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total.Made += s.GetMade()
	r.total.Failed += s.GetFailed()
	r.total.Notes = append(r.total.Notes, s.GetNotes()...)
	for _, e := range events {
		_ = r.send(e) // a client that has hung up is noticed by the stream's context
	}
}

// failed tells that there is none of the clones of a part.
func (s *Service) failed(r *report, one part, err error) {
	st := status.Convert(s.opt.Status(err))
	var events []*api.CloneEvent
	for _, name := range names(one.req) {
		events = append(events, &api.CloneEvent{Event: &api.CloneEvent_Result{Result: &api.CloneResult{
			Name: name, Host: one.host, Code: int32(st.Code()), Error: st.Message(), Hints: s.hints(err), //nolint:gosec // gRPC has few codes
		}}})
	}
	r.made(events, &api.CloneSummary{Failed: int32(one.count)}) //nolint:gosec // at most a million
}

// hints are what can be done about an error, of this host or of another one.
func (s *Service) hints(err error) []string {
	if e, ok := err.(*Error); ok { //nolint:errorlint // as it was made
		return e.Hints
	}
	if h := s.opt.Hint(err); h != "" {
		return []string{h}
	}
	return nil
}
