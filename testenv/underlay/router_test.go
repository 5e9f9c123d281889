package underlay_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// routed is two hosts on networks of their own, and two routers in between.
//
//	alpha -- lan -- edge -- middle -- core -- wan -- beta
type routed struct {
	u      *underlay.Underlay
	h      []*host.Host
	a, b   *underlay.Port
	edge   *underlay.Router
	middle *underlay.Network
	near   *underlay.Port // edge's port of lan
}

func newRouted(t *testing.T) routed {
	t.Helper()
	r := routed{h: hosts(t, "alpha", "beta")}
	r.u = underlay.New(t)
	lan := network(t, r.u, underlay.NetworkConfig{Name: "lan", Prefixes: []netip.Prefix{lan4, lan6}})
	wan := network(t, r.u, underlay.NetworkConfig{Name: "wan", Prefixes: []netip.Prefix{wan4, wan6}})
	r.middle = network(t, r.u, underlay.NetworkConfig{Name: "middle", Prefixes: []netip.Prefix{
		netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:3::/64"),
	}})
	r.a = attach(t, lan, r.h[0], underlay.PortConfig{})
	for name, outer := range map[string]*underlay.Network{"edge": lan, "core": wan} {
		router, err := r.u.Router(name)
		qt.Assert(t, qt.IsNil(err))
		port, err := router.Attach(t.Context(), outer, underlay.PortConfig{})
		qt.Assert(t, qt.IsNil(err))
		_, err = router.Attach(t.Context(), r.middle, underlay.PortConfig{})
		qt.Assert(t, qt.IsNil(err))
		if outer == lan {
			r.edge, r.near = router, port
		}
	}
	r.b = attach(t, wan, r.h[1], underlay.PortConfig{}) // later than the routers
	return r
}

func TestRouter(t *testing.T) {
	r := newRouted(t)
	reaches(t, r.h[0], r.h[1], r.b.Addr4())
	reaches(t, r.h[0], r.h[1], r.b.Addr6())
	reaches(t, r.h[1], r.h[0], r.a.Addr4())
	qt.Assert(t, qt.IsNil(r.near.Cut(underlay.Both)))
	silent(t, r.h[0], r.h[1], r.b.Addr4())
	qt.Assert(t, qt.IsNil(r.u.Heal(t.Context())))
	reaches(t, r.h[0], r.h[1], r.b.Addr4())
}

// pipes are one of each family.
func (r routed) pipes(t *testing.T) []*pipe {
	t.Helper()
	return []*pipe{
		newPipe(t, r.h[0], r.h[1], r.a.Addr4(), r.b.Addr4()),
		newPipe(t, r.h[0], r.h[1], r.a.Addr6(), r.b.Addr6()),
	}
}

// TestRouterSaysTooBig lowers the MTU in the middle of the path.
func TestRouterSaysTooBig(t *testing.T) {
	r := newRouted(t)
	pipes := r.pipes(t)
	for _, p := range pipes {
		p.warm()
		p.size = 1400
		qt.Assert(t, qt.IsNil(p.send(0, 5)))
		p.receive(5)
		p.all(5)
	}
	qt.Assert(t, qt.IsNil(r.middle.SetMTU(1280)))
	for _, p := range pipes {
		p.got = nil
		until(t, "the sender hears of it", func() error {
			err := p.send(0, 1)
			if err == nil {
				return errFew
			}
			qt.Assert(t, qt.ErrorIs(err, error(unix.EMSGSIZE)))
			return nil
		})
		p.rest()
		qt.Check(t, qt.HasLen(p.got, 0))
		p.size = 1200
		for n := range uint32(5) {
			// The socket may have to tell of more than one answer of the router.
			until(t, "smaller ones can be sent", func() error { return p.send(n, 1) })
		}
		p.receive(5)
		p.all(5)
	}
	stream(t, r)
}

// TestBlackHole lets the router swallow what is too large.
func TestBlackHole(t *testing.T) {
	r := newRouted(t)
	qt.Assert(t, qt.IsNil(r.middle.SetMTU(1280)))
	qt.Assert(t, qt.IsNil(r.edge.SetSilent(true)))
	for _, p := range r.pipes(t) {
		p.warm()
		p.size = 1400
		before, err := r.near.Counters(underlay.In)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(p.send(0, 20)))
		until(t, "all come to the router", func() error {
			c, err := r.near.Counters(underlay.In)
			if err == nil && c.Seen < before.Seen+20 {
				err = errFew
			}
			return err
		})
		qt.Check(t, qt.IsNil(p.send(20, 1))) // nobody told
		p.size = 1200
		p.got = nil
		qt.Assert(t, qt.IsNil(p.send(0, 5)))
		p.receive(5)
		p.all(5)
	}
	qt.Assert(t, qt.IsNil(r.u.Heal(t.Context())))
	stream(t, r) // the router speaks again
}

// stream sends numbered bytes, in full segments.
func stream(t *testing.T, r routed) {
	t.Helper()
	load(t, r.h[0], r.h[1], r.b.Addr4(), peer.Pattern{MaxChunk: 64 << 10, MaxPause: -1})
}
