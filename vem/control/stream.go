package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// ErrStalled is that a stream was ended since the other side did not read for [StallTimeout].
var ErrStalled = errors.New("the other side of the stream does not read")

// Stream carries messages both ways, in their order. One goroutine may send while another one
// receives.
type Stream struct {
	// Parameters are what the side that opened the stream said about it.
	Parameters []byte

	host  string // the other one
	self  message.Self
	wire  wire
	stall time.Duration
	abort func(error) // ends the stream at once

	receiving sync.Mutex  // held while something is received; guards what follows
	early     []*pb.Chunk // received by send, for Recv
	end       error       // what the stream has ended with, as the wire says it once
}

// wire is either side of the stream of gRPC.
type wire interface {
	Send(*pb.Chunk) error
	Recv() (*pb.Chunk, error)
}

// Send sends a message of at most [message.MaxChunk] bytes. It waits while the other side does not read.
// The caller may change b afterwards.
func (s *Stream) Send(b []byte) error {
	if len(b) > message.MaxChunk {
		return &message.InvalidError{What: "message", Why: fmt.Sprintf("has %d bytes, and may have %d", len(b), message.MaxChunk)}
	}
	return s.send(&pb.Chunk{Data: b})
}

// CloseSend tells the other side that no messages come after this. Receiving goes on.
func (s *Stream) CloseSend() error { return s.send(&pb.Chunk{End: true}) }

func (s *Stream) send(m *pb.Chunk) error {
	timer := time.AfterFunc(s.stall, func() { s.abort(ErrStalled) })
	err := s.wire.Send(m)
	if !timer.Stop() {
		return fmt.Errorf("send to host %s: %w", s.host, ErrStalled)
	}
	if errors.Is(err, io.EOF) { // the side that opened it learns by Recv why it has ended
		err = s.reason()
	}
	return s.typed(err)
}

// reason is what the stream has ended with. What was said before is kept for Recv.
func (s *Stream) reason() error {
	s.receiving.Lock()
	defer s.receiving.Unlock()
	for s.end == nil {
		var m *pb.Chunk
		if m, s.end = s.wire.Recv(); s.end == nil {
			s.early = append(s.early, m)
		}
	}
	return s.end
}

// receive returns the next message, or what the stream has ended with.
func (s *Stream) receive() (m *pb.Chunk, _ error) {
	s.receiving.Lock()
	defer s.receiving.Unlock()
	if len(s.early) > 0 {
		m, s.early = s.early[0], s.early[1:]
		return m, nil
	}
	if s.end == nil {
		m, s.end = s.wire.Recv()
	}
	return m, s.end
}

// Recv returns the next message, or [io.EOF] after the last one. A stream that was cut returns an
// *[UnreachableError], and one that the other side has ended with an error a *[message.RefusedError].
func (s *Stream) Recv() ([]byte, error) {
	m, err := s.receive()
	var c message.Checks
	switch {
	case errors.Is(err, io.EOF), err == nil && m.GetEnd():
		return nil, io.EOF
	case err != nil:
		return nil, s.typed(err)
	}
	c.Bytes("message", m.GetData(), 0, message.MaxChunk)
	if c.Err != nil {
		s.abort(c.Err)
		return nil, c.Err
	}
	return m.GetData(), nil
}

// Close ends the stream. The side that opened it closes it, after which nothing is sent or
// received any more; the other side's handler returns.
func (s *Stream) Close() { s.abort(context.Canceled) }

// typed turns an error of gRPC into one of this package.
func (s *Stream) typed(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	if said := message.FromStatus(st, s.host, s.self); said != nil {
		if busy, ok := errors.AsType[*message.BusyError](said); ok {
			return &busy.RefusedError
		}
		return said
	}
	if st.Code() == codes.Canceled {
		return fmt.Errorf("stream with host %s: %w", s.host, context.Canceled)
	}
	return &UnreachableError{Host: s.host, Err: errors.New(message.OneLine(st.Message()))}
}

// Open opens a stream of a kind to a host, which has a handler for the kind. ctx bounds the life
// of the stream; opening it takes no longer than [DefaultTimeout]. The caller closes the stream.
//
// What has become of a stream that was cut, both sides know by what they said on it: it is not
// made again.
func (p *Peers) Open(ctx context.Context, host, kind string, parameters []byte) (*Stream, error) {
	var c message.Checks
	c.Name("kind", kind)
	c.Bytes("parameters", parameters, 0, message.MaxOpening)
	if c.Err != nil {
		return nil, c.Err
	}
	l, err := p.link(host)
	if err != nil {
		return nil, err
	}
	soon, cancelSoon := context.WithTimeout(ctx, DefaultTimeout)
	defer cancelSoon()
	protocol, err := l.ready(soon, false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	late := context.AfterFunc(soon, func() { cancel(context.DeadlineExceeded) })
	s := &Stream{Parameters: parameters, host: host, self: p.opts.Self, stall: StallTimeout, abort: cancel}
	err = s.open(inProtocol(ctx, protocol), pb.NewPeerClient(l.streams), kind)
	switch {
	case err == nil && late():
		return s, nil
	case err == nil || soon.Err() != nil:
		err = l.late(soon)
	}
	cancel(err)
	return nil, err
}

// open opens the stream, and waits until the other side says that it is open.
func (s *Stream) open(ctx context.Context, c pb.PeerClient, kind string) error {
	ss, err := c.Open(ctx, grpc.MaxCallRecvMsgSize(message.MaxMessage))
	if err != nil {
		return s.typed(err)
	}
	s.wire = ss
	if err := ss.Send(&pb.Chunk{Kind: kind, Parameters: s.Parameters}); err != nil && !errors.Is(err, io.EOF) {
		return s.typed(err)
	}
	if _, err = ss.Recv(); errors.Is(err, io.EOF) {
		err = &message.RefusedError{By: s.host, Why: "it ended the stream before it was open"}
	}
	if refused, ok := errors.AsType[*message.RefusedError](err); ok {
		return refused
	}
	return s.typed(err)
}

// Open hands a stream to the handler of its kind.
func (s *peerService) Open(ss pb.Peer_OpenServer) error {
	who, err := s.enter(ss.Context())
	if err != nil {
		return err
	}
	first, err := ss.Recv()
	if err != nil {
		return err
	}
	var c message.Checks
	c.Name("kind", first.GetKind())
	c.Bytes("parameters", first.GetParameters(), 0, message.MaxOpening)
	c.That(len(first.GetData()) == 0 && !first.GetEnd(), "stream", "begins with a message")
	if c.Err != nil {
		return c.Err
	}
	handle := s.opts.Handlers.Streams[first.GetKind()]
	if handle == nil {
		return unserved("streams of kind " + first.GetKind())
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopped, func() { cancel(errClosed) })()
	st := &Stream{Parameters: first.GetParameters(), host: who.Host, self: s.opts.Self, stall: StallTimeout, wire: ss, abort: cancel}
	if err := ss.Send(new(pb.Chunk)); err != nil {
		return err
	}
	// The handler may be in the middle of Send or Recv when the stream has to end: these return
	// once this function has, which ends the stream of gRPC.
	done := make(chan error, 1)
	s.streams.Go(func() { done <- handle(ctx, who, st) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errClosed is that the server is closed.
var errClosed = &message.RefusedError{Why: "snapctld is ending", Hint: "try again when it has started"}
