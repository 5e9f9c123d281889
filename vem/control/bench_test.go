package control

import (
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// BenchmarkConnect measures a call: alone, beside streams that fill their connection, and beside
// streams that would share the connection of calls.
func BenchmarkConnect(b *testing.B) {
	for _, beside := range []string{"nothing", "streams", "streams on the same connection", "streams that nobody reads"} {
		b.Run("beside "+beside, func(b *testing.B) { benchmarkConnect(b, beside) })
	}
}

func benchmarkConnect(b *testing.B, beside string) {
	b.Helper()
	ca := newAuthority(b)
	h := newWorld().handlers()
	h.Streams = map[string]func(context.Context, message.Caller, *Stream) error{
		"drain": func(_ context.Context, _ message.Caller, s *Stream) error {
			for {
				if _, err := s.Recv(); err != nil {
					return err
				}
			}
		},
		"sleep": func(ctx context.Context, _ message.Caller, _ *Stream) error { <-ctx.Done(); return nil },
	}
	s := serve(b, ca, h, func(o *ServerOptions) { o.Limits.PerSecond, o.Limits.Burst = 1e6, 1e6 })
	p, _ := ask(b, ca, nil, s.addr)
	ctx, cancel := context.WithCancel(b.Context())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	_, err := p.Connect(ctx, "b", connectRequest())
	qt.Assert(b, qt.IsNil(err))
	kind := "drain"
	if beside == "streams that nobody reads" {
		kind = "sleep"
	}
	for range 4 {
		if beside == "nothing" {
			break
		}
		st, err := p.Open(ctx, "b", kind, nil)
		qt.Assert(b, qt.IsNil(err))
		if beside == "streams on the same connection" {
			st.Close()
			l, err := p.link("b")
			qt.Assert(b, qt.IsNil(err))
			st = &Stream{host: "b", self: self("a"), stall: StallTimeout, abort: func(error) {}}
			qt.Assert(b, qt.IsNil(st.open(inProtocol(ctx, 1), pb.NewPeerClient(l.calls), kind)))
		}
		wait.Go(func() {
			for chunk := make([]byte, message.MaxChunk); st.Send(chunk) == nil; {
			}
		})
	}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		_, err := p.Connect(ctx, "b", connectRequest())
		qt.Assert(b, qt.IsNil(err))
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-us": 0.5, "p99-us": 0.99} {
		b.ReportMetric(float64(took[int(q*float64(len(took)-1))].Microseconds()), name)
	}
}

// BenchmarkStream measures how fast a stream is.
func BenchmarkStream(b *testing.B) {
	ca := newAuthority(b)
	received := make(chan int64, 1)
	s := serve(b, ca, Handlers{Streams: map[string]func(context.Context, message.Caller, *Stream) error{
		"drain": func(_ context.Context, _ message.Caller, s *Stream) error {
			var n int64
			for {
				m, err := s.Recv()
				if err == io.EOF { //nolint:errorlint // Recv returns it as it is
					received <- n
					return nil
				}
				if err != nil {
					return err
				}
				n += int64(len(m))
			}
		},
	}}, nil)
	p, _ := ask(b, ca, nil, s.addr)
	st, err := p.Open(b.Context(), "b", "drain", nil)
	qt.Assert(b, qt.IsNil(err))
	chunk := make([]byte, message.MaxChunk)
	b.SetBytes(int64(len(chunk)))
	n := int64(0)
	for b.Loop() {
		qt.Assert(b, qt.IsNil(st.Send(chunk)))
		n += int64(len(chunk))
	}
	qt.Assert(b, qt.IsNil(st.CloseSend()))
	qt.Check(b, qt.Equals(<-received, n))
}
