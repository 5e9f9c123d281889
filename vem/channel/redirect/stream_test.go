package redirect_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/vem/channel"
)

// serve runs a responder of numbered bytes at port 7 of an app.
func serve(tb testing.TB, a app) {
	tb.Helper()
	l, c := a.listen(tb, "7")
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- peer.Serve(ctx, l, c, slog.New(slog.DiscardHandler)) }()
	tb.Cleanup(func() {
		cancel()
		qt.Check(tb, qt.IsNil(<-done))
	})
}

// busy sends with few pauses.
var busy = peer.Pattern{MaxChunk: 1 << 16, MaxPause: 2 * time.Millisecond}

// load opens numbered streams and flows from an app to an address.
func load(tb testing.TB, from peer.Dialer, to netip.Addr) *peer.Load {
	tb.Helper()
	at := net.JoinHostPort(to.String(), "7")
	l, err := peer.Dial(tb.Context(), from, peer.Target{TCP: at, Connections: 4, UDP: at, Flows: 2, Pattern: busy})
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(l.Close)
	return l
}

// loadStreams is load without datagrams, for what may lose some.
func loadStreams(tb testing.TB, from peer.Dialer, to netip.Addr) *peer.Load {
	tb.Helper()
	at := net.JoinHostPort(to.String(), "7")
	l, err := peer.Dial(tb.Context(), from, peer.Target{TCP: at, Connections: 2, Pattern: busy})
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(l.Close)
	return l
}

// moved waits until so many more bytes have arrived.
func moved(tb testing.TB, l *peer.Load, bytes int64) {
	tb.Helper()
	want := l.Stats().ReceivedBytes + bytes
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.Tick(time.Millisecond); l.Stats().ReceivedBytes < want; <-tick {
		if time.Now().After(deadline) {
			tb.Fatalf("nothing moves: %+v", l.Stats())
		}
	}
}

// stop ends the traffic and fails if a byte is missing, double or changed, or a datagram lost.
func stop(tb testing.TB, l *peer.Load) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	st, err := l.Stop(ctx)
	qt.Check(tb, qt.IsNil(err))
	qt.Check(tb, qt.IsNil(st.Err()))
}

// Streams and datagrams pass both ways, over each kind and underlay, by IPv4 and IPv6.
func TestStreams(t *testing.T) {
	for name, underlay := range map[string]string{"over IPv4": "192.0.2.0/24", "over IPv6": "2001:db8::/64"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, underlay)
			w.use(0, channel.Direct)
			a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
			serve(t, b)
			for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
				w.use(0, kind)
				for _, to := range []netip.Addr{b.ep.Addr4, b.ep.Addr6} {
					l := load(t, a, to)
					moved(t, l, 5<<20)
					stop(t, l)
				}
			}
			report, err := w.alpha.m.Report(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(report.Drops, channel.Drops{}))
			counted := report.Hosts["beta"]
			qt.Check(t, qt.IsTrue(counted.Sent.Bytes > 5<<20), qt.Commentf("%+v", counted))
			qt.Check(t, qt.IsTrue(counted.Received.Packets > 100), qt.Commentf("%+v", counted))
			since := time.Since(counted.Last())
			qt.Check(t, qt.IsTrue(since > -time.Second && since < time.Minute), qt.Commentf("%s", since))
		})
	}
}
