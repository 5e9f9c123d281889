package peering

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// A first packet brings the channel and both ways up, also the one back.
func TestFirstPacket(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 4)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	qt.Check(t, qt.Equals(b.reaches(one), "a"))
	w.agreed("a", "b")
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two))) // one that was underway
	w.agreed("a", "b")

	three := b.has("10.77.0.67", 1)
	qt.Assert(t, qt.IsNil(b.send(t.Context(), three, one)))
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, three)))
	qt.Check(t, qt.Equals(a.reaches(three), "b"))
	w.agreed("a", "b")
}

// All that waits goes out before others may use the way.
func TestWayIsPreparedBeforeItIsOpen(t *testing.T) {
	w := newWorld(t, "a", "b")
	one, two := w.hosts["a"].has("10.77.0.2", 1), w.hosts["b"].has("10.77.0.66", 1)
	way, err := w.hosts["a"].net.Resolve(t.Context(), slowpath.Query{Source: one, Destination: two})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(w.hosts["a"].routes(), 0))
	qt.Assert(t, qt.IsNil(way.Prepare(t.Context())))
	qt.Check(t, qt.Equals(w.hosts["a"].routes()[two].State, channel.Opening))
	qt.Assert(t, qt.IsNil(way.Open(t.Context())))
	qt.Assert(t, qt.IsNil(way.Prepare(t.Context())))
	qt.Check(t, qt.Equals(w.hosts["a"].routes()[two].State, channel.Open))
}

func TestNobody(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.hosts["a"]
	one, gone := a.has("10.77.0.2", 1), netip.MustParseAddr("10.77.0.99")
	qt.Check(t, qt.ErrorIs(a.send(t.Context(), one, gone), slowpath.ErrNobody))
	qt.Check(t, qt.ErrorIs(a.send(t.Context(), gone, one), nil)) // it is here
	two := w.hosts["b"].has("10.77.0.66", 1)
	qt.Check(t, qt.ErrorIs(a.send(t.Context(), gone, two), slowpath.ErrSource))
	qt.Check(t, qt.HasLen(a.channels(), 0))
}

// A host that is asked for what it does not have any more says who has it.
func TestRedirect(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.hosts["a"]
	one, two := a.has("10.77.0.2", 1), w.hosts["c"].has("10.77.0.66", 5)
	stale := staleOwners{w, map[netip.Addr]Owner{two: {"b", 4}}}
	a.opt.Owners = stale
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(a.reaches(two), "c"))
	w.agreed("a", "c")

	// What the directory tells later only counts if it is newer.
	qt.Assert(t, qt.IsNil(a.Moved(t.Context(), "default", two, Owner{"b", 4})))
	qt.Check(t, qt.Equals(a.reaches(two), "c"))
	qt.Assert(t, qt.IsNil(a.Moved(t.Context(), "default", two, Owner{"b", 6})))
	qt.Check(t, qt.Equals(a.reaches(two), ""))
}

// staleOwners has some owners that are not right any more.
type staleOwners struct {
	*world

	stale map[netip.Addr]Owner
}

func (s staleOwners) Known(network string, a netip.Addr) (Owner, bool) {
	if o, ok := s.stale[a]; ok {
		return o, true
	}
	return s.world.Known(network, a)
}

func (s staleOwners) Owner(ctx context.Context, network string, a netip.Addr) (Owner, error) {
	if o, ok := s.stale[a]; ok {
		return o, nil
	}
	return s.world.Owner(ctx, network, a)
}

// Nobody speaks for somebody else's endpoint.
func TestForeignSource(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.hosts["b"]
	two, third := b.has("10.77.0.66", 1), w.hosts["c"].has("10.77.0.130", 3)
	ask := message.ConnectRequest{
		Network: "default", Source: message.Endpoint{Address: third, Epoch: 3}, Wanted: message.Endpoint{Address: two, Epoch: 1},
		Offers: w.hosts["a"].net.offers("b"), Generation: 1,
	}
	for _, source := range []netip.Addr{third, two} {
		ask.Source.Address = source
		_, err := b.Peering.Connect(t.Context(), message.Caller{Host: "a"}, ask)
		var refused *message.RefusedError
		qt.Check(t, qt.ErrorAs(err, &refused))
		qt.Check(t, qt.HasLen(b.routes(), 0))
	}
	ask.Source = message.Endpoint{Address: third, Epoch: 4} // newer than what is known here
	_, err := b.Peering.Connect(t.Context(), message.Caller{Host: "a"}, ask)
	qt.Check(t, qt.IsNil(err))
}

// What nobody uses goes down on both hosts, and comes up again.
func TestIdle(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	at := time.Unix(1000, 0)
	var c channel.Counters
	a.kernel.Count("b", c)
	qt.Assert(t, qt.IsNil(a.net.sweep(t.Context(), at)))
	c.Received.Packets++
	a.kernel.Count("b", c)
	qt.Assert(t, qt.IsNil(a.net.sweep(t.Context(), at.Add(a.opt.Idle))))
	qt.Check(t, qt.Equals(a.reaches(two), "b")) // it was used
	a.net.keep = func(host string) bool { return host == "b" }
	qt.Assert(t, qt.IsNil(a.net.sweep(t.Context(), at.Add(2*a.opt.Idle))))
	qt.Check(t, qt.Equals(a.reaches(two), "b")) // it is kept
	a.net.keep = func(string) bool { return false }
	qt.Assert(t, qt.IsNil(a.net.sweep(t.Context(), at.Add(2*a.opt.Idle))))
	for _, h := range w.hosts {
		qt.Check(t, qt.HasLen(h.routes(), 0))
		qt.Check(t, qt.HasLen(h.channels(), 1)) // what is underway arrives
		qt.Check(t, qt.HasLen(h.gone, 1))
	}
	w.agreed("a", "b")
	qt.Assert(t, qt.IsNil(b.send(t.Context(), two, one)))
	qt.Check(t, qt.Equals(b.reaches(one), "a"))
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	w.agreed("a", "b")
}

// Who reaches an endpoint that is gone asks anew.
func TestLeft(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.hosts["b"]
	two := b.has("10.77.0.66", 1)
	one, third := w.hosts["a"].has("10.77.0.2", 1), w.hosts["c"].has("10.77.0.130", 1)
	qt.Assert(t, qt.IsNil(w.hosts["a"].send(t.Context(), one, two)))
	qt.Assert(t, qt.IsNil(w.hosts["c"].send(t.Context(), third, two)))
	delete(w.owner, two)
	b.Left("default", two)
	qt.Check(t, qt.Equals(w.hosts["a"].reaches(two), ""))
	qt.Check(t, qt.Equals(w.hosts["c"].reaches(two), ""))
	w.agreed("a", "b")
	w.agreed("c", "b")
	qt.Check(t, qt.ErrorIs(w.hosts["a"].send(t.Context(), one, two), slowpath.ErrNobody))
}

// A daemon that was started anew goes on with what the kernel has, and a host that is at another
// address is found there.
func TestRestart(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	a.start()
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	w.agreed("a", "b")

	w.oneLink = true
	a.kernel, a.underlay = newKernel(), netip.MustParseAddr("198.51.100.1")
	a.start() // after a reboot
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	qt.Check(t, qt.Equals(b.reaches(one), "a"))
	w.agreed("a", "b")
}

// Whatever is cut, and whoever begins: when all is well again the next packets of both hosts make
// their tables the same, and lead where the endpoints are.
func TestChance(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		w := newWorld(t, "a", "b")
		a, b := w.hosts["a"], w.hosts["b"]
		one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
		w.cut = func(string, string) cutAt { return cutAt(chance.IntN(3)) }
		for range 12 {
			switch chance.IntN(7) {
			case 0, 1:
				_ = a.send(t.Context(), one, two)
			case 2, 3:
				_ = b.send(t.Context(), two, one)
			case 4:
				_ = a.net.downAll(t.Context())
			case 5:
				_ = b.net.downAll(t.Context())
			case 6:
				b.start()
			}
		}
		w.mu.Lock()
		w.cut = nil
		w.mu.Unlock()
		qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
		qt.Assert(t, qt.IsNil(b.send(t.Context(), two, one)))
		qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
		qt.Check(t, qt.Equals(a.reaches(two), "b"))
		qt.Check(t, qt.Equals(b.reaches(one), "a"))
		if t.Failed() {
			return
		}
	}
}

// Both hosts may begin at the same moment.
func TestBothAtOnce(t *testing.T) {
	for range 200 {
		w := newWorld(t, "a", "b")
		a, b := w.hosts["a"], w.hosts["b"]
		one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
		three, four := a.has("10.77.0.3", 1), b.has("10.77.0.67", 1)
		var g sync.WaitGroup
		g.Go(func() { w.again(a, one, two) })
		g.Go(func() { w.again(b, four, three) })
		g.Wait()
		qt.Check(t, qt.Equals(a.reaches(two), "b"))
		qt.Check(t, qt.Equals(b.reaches(three), "a"))
		w.agreed("a", "b")
	}
}

// again sends until the way was not changed meanwhile, as the slow path does.
func (w *world) again(h *host, from, to netip.Addr) {
	for {
		err := h.send(w.t.Context(), from, to)
		if !errors.Is(err, errOutdated) {
			qt.Check(w.t, qt.IsNil(err))
			return
		}
	}
}

// A host that was started anew gets back what the other one has.
func TestMet(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	gone := b.has("10.77.0.67", 1)
	qt.Assert(t, qt.IsNil(a.Met(t.Context(), "b"))) // there is nothing to compare
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, gone)))
	delete(w.owner, gone)
	b.kernel = newKernel()
	b.start()
	qt.Check(t, qt.Equals(b.knows(one), ""))
	qt.Assert(t, qt.IsNil(a.Met(t.Context(), "b")))
	qt.Check(t, qt.Equals(b.knows(one), "a"))
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	qt.Assert(t, qt.IsNil(b.Met(t.Context(), "a")))
	qt.Check(t, qt.Equals(b.knows(one), "a"))
	list, err := b.Channels(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, 1))
	qt.Check(t, qt.Equals(list[0].Host, "a"))
	qt.Check(t, qt.Equals(list[0].Channel.Module, "direct"))
	qt.Check(t, qt.HasLen(list[0].Routes, 1))
}

// The other host is at another address, or wants another kind of channel.
func TestSwitch(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	ask := message.SwitchRequest{Network: "default", Generation: 1, Offers: []message.Offer{
		{Module: "tunnel", Underlay: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:0")}, MTU: 1420},
		{Module: "direct", Underlay: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:0")}, MTU: 1400},
	}}
	var refused *message.RefusedError
	_, err := b.Peering.Switch(t.Context(), message.Caller{Host: "a"}, ask)
	qt.Check(t, qt.ErrorAs(err, &refused)) // it is down
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	_, err = b.Peering.Switch(t.Context(), message.Caller{Host: "a"}, ask)
	qt.Check(t, qt.ErrorAs(err, &refused)) // not on one link
	w.oneLink = true
	c, err := b.Peering.Switch(t.Context(), message.Caller{Host: "a"}, ask)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(c.Module, "direct")) // b makes no tunnels
	qt.Check(t, qt.Equals(c.Remote.Addr().String(), "198.51.100.1"))
	qt.Check(t, qt.Equals(c.MTU, 1400))
	qt.Check(t, qt.Equals(c.Generation, 2))
	qt.Check(t, qt.Equals(b.channels()["a"].Host.Remote.String(), "198.51.100.1"))
	again, err := b.Peering.Switch(t.Context(), message.Caller{Host: "a"}, ask)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again.Generation, 2))
	ask.Offers = ask.Offers[:1]
	_, err = b.Peering.Switch(t.Context(), message.Caller{Host: "a"}, ask)
	qt.Check(t, qt.ErrorAs(err, &refused))
	ask.Network = "other"
	_, err = b.Peering.Switch(t.Context(), message.Caller{Host: "a"}, ask)
	qt.Check(t, qt.ErrorAs(err, &refused))
}

func TestForget(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	b.kernel.Count("a", channel.Counters{Received: channel.Traffic{Packets: 3, Bytes: 99, Last: time.Now()}})
	counters, err := b.Counters(t.Context(), message.Caller{Host: "a"}, "default")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(counters, 1))
	qt.Check(t, qt.Equals(counters[0].BytesIn, 99))
	qt.Assert(t, qt.IsNil(b.Forget(t.Context(), "a")))
	qt.Check(t, qt.HasLen(b.channels(), 0))
	qt.Check(t, qt.HasLen(b.routes(), 0))
	counters, err = b.Counters(t.Context(), message.Caller{Host: "a"}, "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(counters, 0))
	qt.Assert(t, qt.IsNil(a.Remove(t.Context(), "default")))
	qt.Check(t, qt.HasLen(a.routes(), 0))
	qt.Assert(t, qt.IsNil(a.Remove(t.Context(), "default")))
	table, err := a.Table(t.Context(), message.Caller{Host: "b"}, "default")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(table.Routes, 0))
}
