package peer_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/testenv/peer"
)

const (
	serverAddr = "127.0.0.1:7000"
	proxyAddr  = "127.0.0.1:7001"
)

// brisk is quick enough for a test of part of a second.
var brisk = peer.Pattern{MaxChunk: 4096, MaxPause: 4 * time.Millisecond}

// serve runs a responder on a host until the test ends.
func serve(t *testing.T, h *host.Host) {
	t.Helper()
	l, err := h.Listen(t.Context(), "tcp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	datagrams, err := h.ListenPacket(t.Context(), "udp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- peer.Serve(ctx, l, datagrams, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		qt.Check(t, qt.IsNil(<-done))
	})
}

// progress waits until a load has moved some more bytes and datagrams.
func progress(t *testing.T, l *peer.Load) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for before := l.Stats(); ; {
		now := l.Stats()
		moved := now.Connections == 0 || now.ReceivedBytes > before.ReceivedBytes+100<<10
		answered := now.Flows == 0 || now.Answered >= before.Answered+50
		if moved && answered || len(now.Faults) > 0 {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("no progress")
		}
	}
}

func stop(t *testing.T, l *peer.Load) (peer.Stats, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return l.Stop(ctx)
}

func TestDial(t *testing.T) {
	h := host.New(t, host.Config{})
	leak.Check(t, h)
	serve(t, h)
	target := peer.Target{TCP: serverAddr, Connections: 10, UDP: serverAddr, Flows: 3, Pattern: brisk}
	load, err := peer.Dial(t.Context(), h, target)
	qt.Assert(t, qt.IsNil(err))
	progress(t, load)
	st, err := stop(t, load)
	qt.Assert(t, qt.IsNil(err))
	t.Logf("%+v", st)
	qt.Check(t, qt.Equals(st.Connections, 10))
	qt.Check(t, qt.Equals(st.Flows, 3))
	qt.Check(t, qt.Equals(st.Datagrams, st.Answered))
	qt.Check(t, qt.IsTrue(st.SentBytes > 0 && st.ReceivedBytes > 0))
	qt.Check(t, qt.IsTrue(st.MaxStall > 0 && st.PeerMaxStall > 0 && st.MaxAnswer > 0))
	load.Close()
}

// TestAwait has the responder connect, as a program of its own.
func TestAwait(t *testing.T) {
	h := host.New(t, host.Config{})
	path, err := h.Install(t.Context(), "peer")
	qt.Assert(t, qt.IsNil(err))
	l, err := h.Listen(t.Context(), "tcp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	datagrams, err := h.ListenPacket(t.Context(), "udp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	cmd := h.Command(t.Context(), path, "--connect", serverAddr, "--connections", "10", "--flows", "3", "--max-pause", "4ms")
	qt.Assert(t, qt.IsNil(cmd.Start()))
	load, err := peer.Await(t.Context(), peer.Source{TCP: l, Connections: 10, UDP: datagrams, Flows: 3})
	qt.Assert(t, qt.IsNil(err))
	progress(t, load)
	st, err := stop(t, load)
	qt.Assert(t, qt.IsNil(err))
	t.Logf("%+v", st)
	qt.Check(t, qt.IsNil(cmd.Wait()))
	qt.Check(t, qt.Equals(st.Datagrams, st.Answered))
	qt.Check(t, qt.Equals(st.Flows, 3))
}

func TestAwaitNobody(t *testing.T) {
	h := host.New(t, host.Config{})
	l, err := h.Listen(t.Context(), "tcp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = peer.Await(ctx, peer.Source{TCP: l, Connections: 1})
	qt.Check(t, qt.ErrorIs(err, context.DeadlineExceeded))
}

func halfClose(to, _ *net.TCPConn) { _ = to.CloseWrite() }

// honest passes everything on.
func honest(to *net.TCPConn, b []byte) error { _, err := to.Write(b); return err }

// What a proxy does in the end.
var (
	errEnd   = errors.New("end of the proxy")
	errReset = errors.New("reset by the proxy")
)

// badProxy passes one connection on to the server, and what comes in one
// direction, after a while, through a function that may disturb it.
func badProxy(t *testing.T, h *host.Host, d peer.Direction, disturb func(to *net.TCPConn, b []byte) error,
	atEnd func(to, from *net.TCPConn),
) {
	t.Helper()
	l, err := h.Listen(t.Context(), "tcp", proxyAddr)
	qt.Assert(t, qt.IsNil(err))
	var wg sync.WaitGroup
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(l.Close()))
		wg.Wait()
	})
	wg.Go(func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := h.DialContext(t.Context(), "tcp", serverAddr)
		if err != nil {
			return
		}
		defer server.Close()
		var both sync.WaitGroup
		defer both.Wait()
		pass := func(to, from net.Conn, fn func(*net.TCPConn, []byte) error) {
			tcp, in := to.(*net.TCPConn), from.(*net.TCPConn)
			buf := make([]byte, 1024)
			const skip = 64 << 10
			for passed := 0; ; {
				n, err := from.Read(buf)
				if errors.Is(err, io.EOF) {
					atEnd(tcp, in)
				}
				if err != nil {
					return
				}
				if passed < skip || n < 100 { // too few bytes to tell what happened to them
					err = honest(tcp, buf[:n])
				} else {
					err = fn(tcp, buf[:n])
				}
				passed += n
				if errors.Is(err, errReset) {
					for _, c := range []*net.TCPConn{tcp, in} {
						_ = c.SetLinger(0)
						_ = c.Close()
					}
				}
				if err != nil {
					return
				}
			}
		}
		up, down := honest, honest
		if d == peer.Up {
			up = disturb
		} else {
			down = disturb
		}
		both.Go(func() { pass(server, client, up) })
		both.Go(func() { pass(client, server, down) })
	})
}

func TestBadConnection(t *testing.T) {
	tests := map[string]struct {
		disturb func() func(to *net.TCPConn, b []byte) error
		want    peer.Kind
	}{
		"loses": {want: peer.Loss, disturb: func() func(*net.TCPConn, []byte) error {
			return func(to *net.TCPConn, b []byte) error { _, err := to.Write(b[:len(b)-1]); return err }
		}},
		"repeats": {want: peer.Duplicate, disturb: func() func(*net.TCPConn, []byte) error {
			return func(to *net.TCPConn, b []byte) error { _, err := to.Write(append(b, b...)); return err }
		}},
		"reorders": {want: peer.Reorder, disturb: func() func(*net.TCPConn, []byte) error {
			var kept []byte
			return func(to *net.TCPConn, b []byte) error {
				if kept == nil {
					kept = append([]byte{}, b...)
					return nil
				}
				_, err := to.Write(append(b, kept...))
				kept = nil
				return err
			}
		}},
		"corrupts": {want: peer.Corrupt, disturb: func() func(*net.TCPConn, []byte) error {
			return func(to *net.TCPConn, b []byte) error {
				b[len(b)/2] ^= 0x10
				_, err := to.Write(b)
				return err
			}
		}},
		"resets": {want: peer.Reset, disturb: func() func(*net.TCPConn, []byte) error {
			return func(*net.TCPConn, []byte) error { return errReset }
		}},
		"ends": {want: peer.Truncated, disturb: func() func(*net.TCPConn, []byte) error {
			return func(to *net.TCPConn, _ []byte) error { return errors.Join(to.CloseWrite(), errEnd) }
		}},
	}
	for name, tt := range tests {
		for _, d := range []peer.Direction{peer.Up, peer.Down} {
			t.Run(name+" "+d.String(), func(t *testing.T) {
				t.Parallel()
				h := host.New(t, host.Config{})
				serve(t, h)
				badProxy(t, h, d, tt.disturb(), halfClose)
				load, err := peer.Dial(t.Context(), h, peer.Target{TCP: proxyAddr, Connections: 1, Pattern: brisk})
				qt.Assert(t, qt.IsNil(err))
				progress(t, load)
				st, err := stop(t, load)
				qt.Assert(t, qt.IsNotNil(err))
				qt.Assert(t, qt.HasLen(st.Faults, 1))
				qt.Check(t, qt.Equals(st.Faults[0].Kind, tt.want), qt.Commentf("%v", err))
				if tt.want != peer.Reset { // which has both
					qt.Check(t, qt.Equals(st.Faults[0].Direction, d), qt.Commentf("%v", err))
				}
				var fault *peer.Fault
				qt.Check(t, qt.ErrorAs(err, &fault))
			})
		}
	}
}

// TestStopTimeout stops a load whose peer does not answer any more.
func TestStopTimeout(t *testing.T) {
	h := host.New(t, host.Config{})
	l, err := h.Listen(t.Context(), "tcp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	datagrams, err := h.ListenPacket(t.Context(), "udp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	defer datagrams.Close()
	target := peer.Target{TCP: serverAddr, Connections: 2, UDP: serverAddr, Flows: 1, Pattern: brisk}
	load, err := peer.Dial(t.Context(), h, target)
	qt.Assert(t, qt.IsNil(err))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for load.Stats().Datagrams == 0 {
		<-tick.C
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	st, err := load.Stop(ctx)
	qt.Check(t, qt.IsNotNil(err))
	qt.Assert(t, qt.HasLen(st.Faults, 3))
	kinds := map[peer.Kind]int{}
	for _, f := range st.Faults {
		kinds[f.Kind]++
	}
	qt.Check(t, qt.DeepEquals(kinds, map[peer.Kind]int{peer.Timeout: 2, peer.Loss: 1}))
}

func TestServeRefusesStrangers(t *testing.T) {
	h := host.New(t, host.Config{})
	serve(t, h)
	c, err := h.DialContext(t.Context(), "tcp", serverAddr)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
	qt.Assert(t, qt.IsNil(err))
	_, err = c.Read(make([]byte, 1))
	qt.Check(t, qt.IsNotNil(err))
}

// TestNoHalfClose has a proxy that closes both ways when one has ended.
func TestNoHalfClose(t *testing.T) {
	h := host.New(t, host.Config{})
	serve(t, h)
	badProxy(t, h, peer.Up, honest, func(to, from *net.TCPConn) {
		_ = to.Close()
		_ = from.Close()
	})
	load, err := peer.Dial(t.Context(), h, peer.Target{TCP: proxyAddr, Connections: 1, Pattern: brisk})
	qt.Assert(t, qt.IsNil(err))
	progress(t, load)
	st, err := stop(t, load)
	qt.Assert(t, qt.IsNotNil(err))
	qt.Assert(t, qt.HasLen(st.Faults, 1))
	kind := st.Faults[0].Kind
	qt.Check(t, qt.IsTrue(kind == peer.Truncated || kind == peer.Reset), qt.Commentf("%v", err))
}
