package remote_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/peer/remote"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

var quiet = slog.New(slog.DiscardHandler)

// listen opens a port on the loopback device, which nothing leaves.
func listen(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	return l
}

// background runs fn until the test ends.
func background(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	t.Cleanup(func() {
		cancel()
		qt.Check(t, qt.IsNil(<-done))
	})
}

// peers starts a peer that serves, and another one that is driven, with a client.
func peers(t *testing.T) (c *remote.Client, at, control string) {
	t.Helper()
	tcp := listen(t)
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(t.Context(), "udp", tcp.Addr().String())
	qt.Assert(t, qt.IsNil(err))
	background(t, peer.Service{TCP: tcp, UDP: udp, Log: quiet}.Serve)
	l := listen(t)
	s := remote.NewServer(&net.Dialer{}, &peer.Valve{}, quiet)
	background(t, func(ctx context.Context) error { return s.Serve(ctx, l) })
	return remote.NewClient(&net.Dialer{}, l.Addr().String()), tcp.Addr().String(), l.Addr().String()
}

// moves waits until a load has moved more than in a report before.
func moves(t *testing.T, c *remote.Client, id string, before peer.Report) peer.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := c.Report(ctx, id)
		qt.Assert(t, qt.IsNil(err))
		if r.ReceivedBytes > before.ReceivedBytes && r.SentBytes > before.SentBytes && r.Answered > before.Answered {
			return r
		}
		<-tick.C
	}
}

func TestLoad(t *testing.T) {
	c, at, _ := peers(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	target := peer.Target{TCP: at, Connections: 3, Flows: 2, Pattern: peer.Pattern{MaxChunk: 512, MaxPause: 2 * time.Millisecond}}
	qt.Assert(t, qt.IsNil(c.Begin(ctx, "one", target)))
	qt.Assert(t, qt.IsNil(c.Begin(ctx, "one", target))) // again: nothing more
	moves(t, c, "one", peer.Report{})
	for range 2 {
		r, err := c.End(ctx, "one")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.HasLen(r.Faults, 0))
		qt.Check(t, qt.HasLen(r.Streams, 3))
		qt.Check(t, qt.HasLen(r.Sent, 2))
		for _, s := range r.Streams {
			qt.Check(t, qt.Equals(s.Remote, at))
			qt.Check(t, qt.IsTrue(s.ReceivedBytes > 0 && s.MaxStall > 0 && s.PeerMaxStall > 0))
		}
		for _, f := range r.Sent {
			qt.Check(t, qt.Equals(f.Datagrams, f.Answered))
			qt.Check(t, qt.HasLen(f.Missing, 0))
		}
	}
}

// TestPause shuts one of the two peers: it sends no more, and goes on.
func TestPause(t *testing.T) {
	c, at, _ := peers(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	target := peer.Target{TCP: at, Connections: 2, Flows: 1, Pattern: peer.Pattern{MaxChunk: 512, MaxPause: 2 * time.Millisecond}}
	qt.Assert(t, qt.IsNil(c.Begin(ctx, "one", target)))
	before := moves(t, c, "one", peer.Report{})
	qt.Assert(t, qt.IsNil(c.Pause(ctx)))
	still := func() bool {
		a, err := c.Report(ctx, "one")
		qt.Assert(t, qt.IsNil(err))
		b, err := c.Report(ctx, "one")
		qt.Assert(t, qt.IsNil(err))
		return a.SentBytes == b.SentBytes && a.Datagrams == b.Datagrams
	}
	for !still() { // what was being sent
		qt.Assert(t, qt.IsNil(ctx.Err()))
	}
	qt.Assert(t, qt.IsNil(c.Resume(ctx)))
	moves(t, c, "one", before)
	qt.Assert(t, qt.IsNil(c.Pause(ctx)))
	r, err := c.End(ctx, "one") // it can end while it is shut
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(r.Faults, 0))
}

func TestRefused(t *testing.T) {
	c, _, control := peers(t)
	ctx := t.Context()
	_, err := c.Report(ctx, "none")
	qt.Check(t, qt.ErrorMatches(err, `ask peer at .* to report: there is no load "none"`))
	l := listen(t)
	qt.Assert(t, qt.IsNil(l.Close()))
	err = c.Begin(ctx, "one", peer.Target{TCP: l.Addr().String(), Connections: 1})
	qt.Check(t, qt.ErrorMatches(err, ".*connection refused"))
	_, err = c.End(ctx, "one")
	qt.Check(t, qt.ErrorMatches(err, ".*no load.*"))

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+control+"/begin", strings.NewReader("{"))
	qt.Assert(t, qt.IsNil(err))
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Do(req)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(resp.StatusCode, http.StatusBadRequest))
	qt.Check(t, qt.IsNil(resp.Body.Close()))

	late, cancel := context.WithCancel(ctx)
	cancel()
	qt.Check(t, qt.IsTrue(errors.Is(c.Pause(late), context.Canceled)))
}
