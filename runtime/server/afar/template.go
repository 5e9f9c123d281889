package afar

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
)

// PullTemplate implements the API: the other host pushes it.
func (s *Service) PullTemplate(req *api.TransferRequest, stream grpc.ServerStreamingServer[api.TransferEvent]) error {
	return hinting(stream, s.pullTemplate(req, stream))
}

func (s *Service) pullTemplate(req *api.TransferRequest, stream grpc.ServerStreamingServer[api.TransferEvent]) error {
	host := req.GetHost()
	if !s.elsewhere(host) {
		return fmt.Errorf("host %s is this host: %w", host, errdefs.ErrInvalidArgument)
	}
	c, err := s.opt.Hosts.Dial(stream.Context(), host)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // it says that it was closed before
	events, err := api.NewSnapctlClient(c).PushTemplate(stream.Context(), &api.TransferRequest{
		Snapshot: req.GetSnapshot(), Host: s.opt.Hosts.Self(), As: req.GetAs(), BandwidthBytes: req.GetBandwidthBytes(),
	})
	if err != nil {
		return answered(host, err, nil)
	}
	for {
		e, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return answered(host, err, events.Trailer())
		}
		if r := e.GetResult(); r != nil {
			r.Host = host
		}
		if err := stream.Send(e); err != nil {
			return err
		}
	}
}
