package afar

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
)

// anyHost is the host with most memory available.
const anyHost = "any"

// Wake implements the API: on another host, if the request names one. The app moves there first.
func (s *Service) Wake(req *api.WakeRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	host := req.GetHost()
	if host == anyHost {
		var err error
		if host, err = s.Roomiest(stream.Context()); err != nil {
			return err
		}
	}
	if !s.elsewhere(host) {
		return s.SnapctlServer.Wake(req, stream)
	}
	if req.GetCopy() || req.GetAcceptChangedFiles() {
		return fmt.Errorf("on another host an app is woken as its policy says: %w", errdefs.ErrInvalidArgument)
	}
	return s.Migrate(&api.MigrateRequest{Name: req.GetName(), Host: host, Timeout: req.GetTimeout(), Wake: true}, &wakening{stream, host})
}

// wakening is the stream of an app that moves to be woken.
type wakening struct {
	grpc.ServerStreamingServer[api.Event]

	host string
}

// Send implements the stream.
func (w *wakening) Send(e *api.Event) error {
	r := e.GetResult()
	if r == nil {
		return w.ServerStreamingServer.Send(e)
	}
	m := r.GetMove()
	if m.GetTrouble() != "" {
		return status.Errorf(codes.Unknown, "app %s is on host %s: %s", m.GetApp(), w.host, m.GetTrouble())
	}
	r.Host = w.host
	r.Sent = &api.TransferProgress{SentBytes: m.GetSentBytes(), SavedBytes: m.GetSavedBytes()}
	return w.ServerStreamingServer.Send(e)
}

// Roomiest returns the host with most memory available. It is this one, unless another one has a tenth more: to move
// has its price too. Hosts that do not answer soon are left out.
func (s *Service) Roomiest(ctx context.Context) (string, error) {
	self := s.opt.Hosts.Self()
	if self == "" {
		return "", fmt.Errorf("this host is in no installation: %w", errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	places, _, _, err := s.places(ctx, "")
	if err != nil {
		return "", err
	}
	return roomiest(self, places), nil
}

// roomiest chooses among hosts, of which the first has most memory.
func roomiest(self string, places []place) string {
	for _, p := range places {
		if p.host == self && places[0].memory-p.memory <= p.memory/10 {
			return self
		}
	}
	return places[0].host
}
