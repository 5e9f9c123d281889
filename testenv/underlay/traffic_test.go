package underlay_test

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// load has numbered bytes go both ways between two hosts until some have, and
// proves that none was lost.
func load(t *testing.T, from, to *host.Host, at netip.Addr, p peer.Pattern) {
	t.Helper()
	address := netip.AddrPortFrom(at, 7100).String()
	l, err := to.Listen(t.Context(), "tcp", address)
	qt.Assert(t, qt.IsNil(err))
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- peer.Serve(ctx, l, nil, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		qt.Check(t, qt.IsNil(<-served))
	}()
	traffic, err := peer.Dial(t.Context(), from, peer.Target{TCP: address, Connections: 2, Pattern: p})
	qt.Assert(t, qt.IsNil(err))
	defer traffic.Close()
	until(t, "bytes come", func() error {
		if traffic.Stats().ReceivedBytes < 200<<10 {
			return errFew
		}
		return nil
	})
	end, stop := context.WithTimeout(t.Context(), 2*patience)
	defer stop()
	stats, err := traffic.Stop(end)
	qt.Assert(t, qt.IsNil(err))
	t.Logf("%d kB, longest silence %v", stats.ReceivedBytes>>10, stats.MaxStall)
}

// TestBytesSurviveFaults has TCP on networks with each fault, and with all of them.
func TestBytesSurviveFaults(t *testing.T) {
	h, a, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}}, true)
	for name, f := range map[string]underlay.Faults{
		"none":    {},
		"loss":    {Loss: 5, Seed: 1},
		"delay":   {Delay: 5 * time.Millisecond},
		"reorder": {Reorder: 10, Seed: 2},
		"rate":    {Rate: 10 << 20},
		"all":     {Loss: 2, Delay: 2 * time.Millisecond, Reorder: 5, Rate: 10 << 20, Seed: 3},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.IsNil(a.Set(underlay.Both, f)))
			load(t, h[0], h[1], b.Addr4(), peer.Pattern{MaxChunk: 8 << 10, MaxPause: 2 * time.Millisecond})
		})
	}
}
