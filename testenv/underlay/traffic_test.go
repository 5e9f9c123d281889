package underlay_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"

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

// TestDisturb draws faults and ends them, each under traffic.
func TestDisturb(t *testing.T) {
	r := newRouted(t)
	wan := network(t, r.u, underlay.NetworkConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.114.0/24")}})
	attach(t, wan, r.h[0], underlay.PortConfig{Line: true})
	attach(t, wan, r.h[1], underlay.PortConfig{Line: true})
	seen := make(map[string]int)
	for seed := uint64(0); len(seen) < 5 && seed < 500; seed++ {
		d, err := r.u.Disturb(t.Context(), rand.New(rand.NewPCG(seed, 1)))
		qt.Assert(t, qt.IsNil(err))
		for _, kind := range []string{"carrier", "cut", "loses", "late", "reach"} {
			if strings.Contains(d.String(), kind) {
				seen[kind]++
			}
		}
		qt.Assert(t, qt.IsNil(d.End(t.Context())))
	}
	qt.Check(t, qt.HasLen(seen, 5), qt.Commentf("%v", seen))
	reaches(t, r.h[0], r.h[1], r.b.Addr4())
	load(t, r.h[1], r.h[0], r.a.Addr4(), peer.Pattern{MaxPause: time.Millisecond})

	_, err := underlay.New(t).Disturb(t.Context(), rand.New(rand.NewPCG(1, 1)))
	qt.Check(t, qt.ErrorMatches(err, "disturb underlay: no host has a port"))
}

// TestTunnel has a tunnel of the hosts cross ports with and without a line: the runs of
// segments that tunnels make, too, come as single frames.
func TestTunnel(t *testing.T) {
	for name, hasLine := range map[string]bool{"plain": false, "line": true} {
		t.Run(name, func(t *testing.T) {
			h, a, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}}, hasLine)
			ends := []netip.Addr{a.Addr4(), b.Addr4()}
			inner := []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("203.0.113.2/24")}
			for i, h := range h {
				err := h.Do(func() error {
					tunnel := &netlink.Vxlan{
						LinkAttrs: netlink.LinkAttrs{Name: "tunnel", MTU: 1450}, VxlanId: 7, Port: 4789, Learning: true,
						SrcAddr: ends[i].AsSlice(), Group: ends[1-i].AsSlice(),
					}
					if err := netlink.LinkAdd(tunnel); err != nil {
						return err
					}
					addr, err := netlink.ParseAddr(inner[i].String())
					return errors.Join(err, netlink.AddrAdd(tunnel, addr), netlink.LinkSetUp(tunnel))
				})
				qt.Assert(t, qt.IsNil(err))
				defer func() {
					qt.Check(t, qt.IsNil(h.Do(func() error {
						return netlink.LinkDel(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "tunnel"}})
					})))
				}()
			}
			load(t, h[0], h[1], inner[1].Addr(), peer.Pattern{MaxChunk: 64 << 10, MaxPause: -1})
		})
	}
}

// BenchmarkStream sends bytes by TCP, by a plain pair of devices and by each kind of
// port.
func BenchmarkStream(b *testing.B) {
	lan := []netip.Prefix{lan4}
	for name, cfg := range map[string]struct {
		net  underlay.NetworkConfig
		port underlay.PortConfig
	}{
		"pair":    {},
		"offload": {underlay.NetworkConfig{Prefixes: lan, Offload: true}, underlay.PortConfig{}},
		"network": {underlay.NetworkConfig{Prefixes: lan}, underlay.PortConfig{}},
		"line":    {underlay.NetworkConfig{Prefixes: lan}, underlay.PortConfig{Line: true}},
	} {
		b.Run(name, func(b *testing.B) {
			from, to := host.New(b, host.Config{Name: "alpha"}), host.New(b, host.Config{Name: "beta"})
			var at netip.Addr
			if name == "pair" {
				link, err := from.Link(b.Context(), to, lan4)
				qt.Assert(b, qt.IsNil(err))
				at = link.B
			} else {
				n, err := underlay.New(b).Network(cfg.net)
				qt.Assert(b, qt.IsNil(err))
				_, err = n.Attach(b.Context(), from, cfg.port)
				qt.Assert(b, qt.IsNil(err))
				p, err := n.Attach(b.Context(), to, underlay.PortConfig{})
				qt.Assert(b, qt.IsNil(err))
				at = p.Addr4()
			}
			l, err := to.Listen(b.Context(), "tcp", netip.AddrPortFrom(at, 7200).String())
			qt.Assert(b, qt.IsNil(err))
			defer l.Close()
			c, err := from.DialContext(b.Context(), "tcp", l.Addr().String())
			qt.Assert(b, qt.IsNil(err))
			defer c.Close()
			s, err := l.Accept()
			qt.Assert(b, qt.IsNil(err))
			defer s.Close()
			const chunk = 256 << 10
			b.SetBytes(chunk)
			go func() {
				buf := make([]byte, chunk)
				for {
					if _, err := c.Write(buf); err != nil {
						return // the other end has enough
					}
				}
			}()
			buf := make([]byte, chunk)
			b.ResetTimer()
			for range b.N {
				_, err := io.ReadFull(s, buf)
				qt.Assert(b, qt.IsNil(err))
			}
			b.StopTimer()
		})
	}
}
