package line

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/control/message"
)

// pipe is one side of a stream.
type pipe struct {
	out  chan<- []byte
	in   <-chan []byte
	done chan struct{}
	once *sync.Once
}

// newPipe makes both sides of a stream.
func newPipe() (a, b *pipe) {
	one, two, done, once := make(chan []byte, 4), make(chan []byte, 4), make(chan struct{}), new(sync.Once)
	return &pipe{one, two, done, once}, &pipe{two, one, done, once}
}

var errLong = errors.New("longer than a message may be")

func (p *pipe) Send(b []byte) error {
	if len(b) > message.MaxChunk {
		return errLong
	}
	select {
	case p.out <- append([]byte(nil), b...):
		return nil
	case <-p.done:
		return io.EOF
	}
}

func (p *pipe) Recv() ([]byte, error) {
	select {
	case b := <-p.in:
		return b, nil
	case <-p.done:
		return nil, io.EOF
	}
}

func (p *pipe) Close() { p.once.Do(func() { close(p.done) }) }

// service tells who asks, and waits, at "slow", until the request is called off.
type service struct {
	api.UnimplementedSnapctlServer
	called chan struct{}
}

func (s *service) Show(ctx context.Context, req *api.AppRequest) (*api.App, error) {
	switch req.GetName() {
	case "slow":
		s.called <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	case "none":
		_ = grpc.SetTrailer(ctx, metadata.Pairs("snapctl-hint", "look elsewhere"))
		return nil, status.Error(codes.NotFound, "app none: not found")
	}
	p, _ := peer.FromContext(ctx)
	return &api.App{Name: req.GetName(), Hostname: p.Addr.String()}, nil
}

// open serves lines, of which one leads to the service.
func open(t *testing.T) (*Switchboard, *service, *grpc.ClientConn, *pipe) {
	t.Helper()
	b, srv := NewSwitchboard(), &service{called: make(chan struct{}, 1)}
	s := grpc.NewServer()
	api.RegisterSnapctlServer(s, srv)
	served := make(chan error, 2)
	go func() { served <- s.Serve(b) }()
	here, there := newPipe()
	go func() { served <- b.Serve(context.WithoutCancel(t.Context()), "alpha", there) }()
	cc, err := Connect(here)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(cc.Close()))
		s.Stop()
		for range 2 {
			if err := <-served; !errors.Is(err, net.ErrClosed) { // whichever ended first
				qt.Check(t, qt.IsNil(err))
			}
		}
	})
	return b, srv, cc, here
}

func TestRequestsCross(t *testing.T) {
	b, _, cc, _ := open(t)
	c := api.NewSnapctlClient(cc)
	long := make([]byte, 5*message.MaxChunk+7)
	for i := range long {
		long[i] = 'a' + byte(i%26)
	}
	a, err := c.Show(t.Context(), &api.AppRequest{Name: string(long)})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a.GetName(), string(long)))
	qt.Check(t, qt.Equals(a.GetHostname(), "alpha"))

	var trailer metadata.MD
	_, err = c.Show(t.Context(), &api.AppRequest{Name: "none"}, grpc.Trailer(&trailer))
	qt.Check(t, qt.Equals(status.Code(err), codes.NotFound))
	qt.Check(t, qt.DeepEquals(trailer.Get("snapctl-hint"), []string{"look elsewhere"}))

	// A host asks itself the same way.
	self, err := b.Connect(t.Context(), "beta")
	qt.Assert(t, qt.IsNil(err))
	a, err = api.NewSnapctlClient(self).Show(t.Context(), &api.AppRequest{Name: "x"})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a.GetHostname(), "beta"))
	qt.Check(t, qt.IsNil(self.Close()))
}

// A request is called off with its context, on the other side too; and fails when the stream ends.
func TestRequestsEnd(t *testing.T) {
	_, srv, cc, here := open(t)
	c := api.NewSnapctlClient(cc)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-srv.called
		cancel()
	}()
	_, err := c.Show(ctx, &api.AppRequest{Name: "slow"})
	qt.Check(t, qt.Equals(status.Code(err), codes.Canceled))
	go func() {
		<-srv.called
		here.Close()
	}()
	_, err = c.Show(t.Context(), &api.AppRequest{Name: "slow"})
	qt.Check(t, qt.Equals(status.Code(err), codes.Unavailable))
	_, err = c.Show(t.Context(), &api.AppRequest{Name: "x"})
	qt.Check(t, qt.Equals(status.Code(err), codes.Unavailable))
}
