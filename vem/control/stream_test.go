package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// opened opens a stream of kind "test" from host a to host b, which has a handler for it.
func opened(t *testing.T, handle func(context.Context, message.Caller, *Stream) error) (*Stream, *Peers, *serving) {
	t.Helper()
	ca := newAuthority(t)
	h := newWorld().handlers()
	h.Streams = map[string]func(context.Context, message.Caller, *Stream) error{"test": handle}
	s := serve(t, ca, h, nil)
	p, _ := ask(t, ca, nil, s.addr)
	st, err := p.Open(t.Context(), "b", "test", []byte("parameters"))
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(st.Close)
	return st, p, s
}

func TestStream(t *testing.T) {
	st, _, _ := opened(t, func(_ context.Context, from message.Caller, s *Stream) error {
		if from.Host != "a" || string(s.Parameters) != "parameters" {
			return errors.New("not what was opened")
		}
		for {
			b, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return s.Send([]byte("end"))
			}
			if err == nil {
				err = s.Send(b)
			}
			if err != nil {
				return err
			}
		}
	})
	large := bytes.Repeat([]byte("x"), message.MaxChunk)
	for _, b := range [][]byte{[]byte("hello"), {}, large} {
		qt.Assert(t, qt.IsNil(st.Send(b)))
		got, err := st.Recv()
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(bytes.Equal(got, b)))
	}
	var invalid *message.InvalidError
	qt.Check(t, qt.ErrorAs(st.Send(append(large, 'x')), &invalid))
	qt.Assert(t, qt.IsNil(st.CloseSend()))
	got, err := st.Recv()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(got), "end"))
	_, err = st.Recv()
	qt.Check(t, qt.ErrorIs(err, io.EOF))
}

func TestStreamFails(t *testing.T) {
	st, p, _ := opened(t, func(context.Context, message.Caller, *Stream) error {
		return &message.RefusedError{Why: "no room", Hint: "make room"}
	})
	_, err := st.Recv()
	qt.Check(t, qt.ErrorMatches(err, "host b refuses: no room"))
	eventually(t, "Send fails as well", func() bool { err = st.Send([]byte("x")); return err != nil })

	_, err = p.Open(t.Context(), "b", "other", nil)
	qt.Check(t, qt.ErrorMatches(err, "host b refuses: this host does not serve streams of kind other"))
	var invalid *message.InvalidError
	_, err = p.Open(t.Context(), "b", "no/name", nil)
	qt.Check(t, qt.ErrorAs(err, &invalid))
	_, err = p.Open(t.Context(), "b", "test", make([]byte, message.MaxOpening+1))
	qt.Check(t, qt.ErrorAs(err, &invalid))
	_, err = p.Open(t.Context(), "c", "test", nil)
	var unreachable *UnreachableError
	qt.Check(t, qt.ErrorAs(err, &unreachable))
}

// A side that sends learns why the other one has ended the stream, whoever receives meanwhile, and what was
// said before that is received.
func TestStreamEndsWhileItSends(t *testing.T) {
	for name, receives := range map[string]bool{"somebody receives": true, "nobody receives yet": false} {
		t.Run(name, func(t *testing.T) {
			st, _, _ := opened(t, func(_ context.Context, _ message.Caller, s *Stream) error {
				for _, last := range []string{"one", "two"} {
					if err := s.Send([]byte(last)); err != nil {
						return err
					}
				}
				return &message.RefusedError{Why: "no room"}
			})
			var heard []string
			listen := func() error {
				for {
					b, err := st.Recv()
					if err != nil {
						return err
					}
					heard = append(heard, string(b))
				}
			}
			received := make(chan error, 1)
			if receives {
				go func() { received <- listen() }()
			}
			var err error
			eventually(t, "Send fails", func() bool { err = st.Send([]byte("x")); return err != nil })
			qt.Check(t, qt.ErrorMatches(err, "host b refuses: no room"))
			if !receives {
				received <- listen()
			}
			qt.Check(t, qt.ErrorMatches(<-received, "host b refuses: no room"))
			qt.Check(t, qt.DeepEquals(heard, []string{"one", "two"}))
			qt.Check(t, qt.ErrorMatches(st.Send([]byte("x")), "host b refuses: no room"))
		})
	}
}

// However a stream ends, its handler is told.
func TestStreamEnds(t *testing.T) {
	for name, end := range map[string]func(*Stream, *Peers, *serving){
		"closed":  func(st *Stream, _ *Peers, _ *serving) { st.Close() },
		"removed": func(_ *Stream, p *Peers, _ *serving) { p.Remove("b") },
		"dropped": func(_ *Stream, _ *Peers, s *serving) { s.Drop("a") },
		"ending":  func(_ *Stream, _ *Peers, s *serving) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			entered, left := make(chan struct{}), make(chan error, 1)
			st, p, s := opened(t, func(ctx context.Context, _ message.Caller, s *Stream) error {
				close(entered)
				_, err := s.Recv()
				<-ctx.Done()
				left <- err
				return err
			})
			<-entered
			end(st, p, s)
			qt.Check(t, qt.IsNotNil(<-left))
			_, err := st.Recv()
			qt.Check(t, qt.IsTrue(err != nil && !errors.Is(err, io.EOF)), qt.Commentf("%v", err))
		})
	}
}

func TestTooManyStreams(t *testing.T) {
	_, p, _ := opened(t, func(ctx context.Context, _ message.Caller, _ *Stream) error { <-ctx.Done(); return nil })
	for range 15 {
		_, err := p.Open(t.Context(), "b", "test", nil)
		qt.Assert(t, qt.IsNil(err))
	}
	_, err := p.Open(t.Context(), "b", "test", nil)
	qt.Check(t, qt.ErrorMatches(err, "host b refuses: 16 streams are open, which is all that one host may have"))
	_, err = p.Connect(t.Context(), "b", connectRequest())
	qt.Check(t, qt.IsNil(err))
}

// flood sends until it fails, and counts what was taken.
func flood(s *Stream, bytes *atomic.Int64) error {
	for chunk := make([]byte, message.MaxChunk); ; {
		if err := s.Send(chunk); err != nil {
			return err
		}
		bytes.Add(int64(len(chunk)))
	}
}

// A side that does not read makes the other keep no more than a window, and ends the stream by
// that; calls are not delayed by it.
func TestPeerThatDoesNotRead(t *testing.T) {
	const most = StreamWindow + 3*message.MaxChunk // in flight: a message at either side, and gRPC's own buffer
	var fromServer, fromClient atomic.Int64
	stalled := make(chan error, 1)
	st, p, _ := opened(t, func(_ context.Context, _ message.Caller, s *Stream) error {
		s.stall = 500 * time.Millisecond
		err := flood(s, &fromServer)
		stalled <- err
		return err
	})
	st.stall = 200 * time.Millisecond
	client := make(chan error, 1)
	go func() { client <- flood(st, &fromClient) }()
	for range 100 {
		_, err := p.Connect(t.Context(), "b", connectRequest())
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Check(t, qt.ErrorIs(<-client, ErrStalled))
	err := <-stalled // by its own watch, or since the other side has ended the stream before
	qt.Check(t, qt.IsTrue(errors.Is(err, ErrStalled) || errors.Is(err, context.Canceled)), qt.Commentf("%v", err))
	for _, n := range []int64{fromServer.Load(), fromClient.Load()} {
		qt.Check(t, qt.IsTrue(n > 0 && n <= most), qt.Commentf("%d bytes", n))
	}
}

// The server ends a stream whose other side does not read.
func TestClientThatDoesNotRead(t *testing.T) {
	stalled := make(chan error, 1)
	st, _, _ := opened(t, func(_ context.Context, _ message.Caller, s *Stream) error {
		s.stall = 100 * time.Millisecond
		err := flood(s, new(atomic.Int64))
		stalled <- err
		return err
	})
	qt.Check(t, qt.ErrorIs(<-stalled, ErrStalled))
	for {
		if _, err := st.Recv(); err != nil {
			qt.Check(t, qt.ErrorMatches(err, ".*"+ErrStalled.Error()))
			return
		}
	}
}

// A stream that is cut tells both sides.
func TestStreamIsCut(t *testing.T) {
	ca := newAuthority(t)
	left := make(chan error, 1)
	s := serve(t, ca, Handlers{Streams: map[string]func(context.Context, message.Caller, *Stream) error{
		"test": func(_ context.Context, _ message.Caller, s *Stream) error {
			_, err := s.Recv()
			left <- err
			return err
		},
	}}, nil)
	px := &proxy{to: s.addr, record: -1}
	p, _ := ask(t, ca, nil, startProxy(t, px))
	st, err := p.Open(t.Context(), "b", "test", nil)
	qt.Assert(t, qt.IsNil(err))
	px.cut()
	_, err = st.Recv()
	var unreachable *UnreachableError
	qt.Check(t, qt.ErrorAs(err, &unreachable), qt.Commentf("%v", err))
	qt.Check(t, qt.ErrorIs(<-left, context.Canceled))
	_, err = p.Open(t.Context(), "b", "test", nil) // over a new connection
	qt.Check(t, qt.IsNil(err))
}
