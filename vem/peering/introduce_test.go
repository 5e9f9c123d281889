package peering

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// When a channel has come up each host has routes to all endpoints of the other; one that comes
// later is told, and what could not be told is told by the watch.
func TestIntroduce(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, other := a.has("10.77.0.2", 1), a.has("10.77.0.3", 1)
	two, more := b.has("10.77.0.66", 1), b.has("10.77.0.67", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(b.reaches(one)+b.knows(other), "aa"))
	qt.Check(t, qt.Equals(a.reaches(two)+a.knows(more), "bb"))
	// What is sent there first may find others waiting in the slow path, and comes after them.
	qt.Check(t, qt.Equals(b.reaches(other)+a.reaches(more), ""))
	w.cut = func(string, string) cutAt { return before } // nobody is asked
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, more)))
	qt.Check(t, qt.Equals(a.reaches(more), "b"))
	w.cut = nil
	w.agreed("a", "b")

	late := a.has("10.77.0.4", 1)
	a.Here("default", late)
	a.Here("other", late)
	qt.Check(t, qt.Equals(b.knows(late), "a"))
	w.agreed("a", "b")

	w.cut = func(string, string) cutAt { return before }
	later := b.has("10.77.0.68", 1)
	b.Here("default", later)
	qt.Check(t, qt.Equals(a.knows(later), ""))
	w.cut = nil
	qt.Assert(t, qt.IsNil(b.Met(t.Context(), "a")))
	qt.Check(t, qt.Equals(a.knows(later), "b"))
}

// Of a new endpoint the other host is told alone; if it does not take that, tables are compared.
func TestNews(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	told := func(what func()) int64 {
		before := w.told.Load()
		what()
		return w.told.Load() - before
	}
	next := netip.MustParseAddr("10.77.1.1")
	more := func() netip.Addr {
		next = next.Next()
		return a.has(next.String(), 1)
	}
	for range 10 {
		n := more()
		qt.Check(t, qt.Equals(told(func() { a.Here("default", n) }), 1))
		qt.Check(t, qt.Equals(b.knows(n), "a"))
		qt.Check(t, qt.Equals(told(func() { a.Here("default", n) }), 0))
	}
	w.agreed("a", "b")
	a.Told(t.Context(), "default") // there is nothing to wait for
	a.Told(t.Context(), "other")

	// It was started anew, and knows no generation.
	b.start()
	n := more()
	qt.Check(t, qt.IsTrue(told(func() { a.Here("default", n) }) > 10))
	qt.Check(t, qt.Equals(b.knows(n), "a"))
	w.agreed("a", "b")

	// One that has gone while it was told is taken back.
	n = more()
	a.Here("default", n)
	delete(w.owner, n)
	a.Left("default", n)
	qt.Check(t, qt.Equals(b.knows(n), ""))
	w.agreed("a", "b")

	// An address that can't be keeps no other one out.
	err := b.Peering.Introduce(t.Context(), message.Caller{Host: "a"}, message.IntroduceRequest{
		Network: "default", Generation: b.net.link("a").version.generation,
		Endpoints: []message.Endpoint{{Address: netip.MustParseAddr("192.0.2.9"), Epoch: 1}, {Address: more(), Epoch: 1}},
	})
	qt.Check(t, qt.ErrorIs(err, channel.ErrRoute))
	qt.Check(t, qt.Equals(b.knows(next), "a"))
	for _, network := range []string{"default", "other"} { // in no such generation
		err := b.Peering.Introduce(t.Context(), message.Caller{Host: "a"}, message.IntroduceRequest{Network: network, Generation: 99})
		var refused *message.RefusedError
		qt.Check(t, qt.ErrorAs(err, &refused))
	}
}

// Whoever waits until other hosts know an endpoint does not wait long for one that is silent, and
// not a second time.
func TestTold(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.runBeside()
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	for i := range 100 {
		n := a.has(netip.AddrFrom4([4]byte{10, 77, 1, byte(i)}).String(), 1)
		a.Here("default", n)
		a.Told(t.Context(), "default")
		qt.Assert(t, qt.Equals(b.knows(n), "a"))
	}
	w.mu.Lock()
	w.cut = func(string, string) cutAt { return before }
	w.mu.Unlock()
	n := a.has("10.77.2.1", 1)
	a.Here("default", n)
	a.Told(t.Context(), "default")
	qt.Check(t, qt.Equals(b.knows(n), ""))
	qt.Check(t, qt.HasLen(a.net.strange(), 1))
	qt.Check(t, qt.HasLen(a.net.underway(), 0))
	w.mu.Lock()
	w.cut = nil
	w.mu.Unlock()
	qt.Assert(t, qt.IsNil(a.net.sweep(t.Context(), time.Now())))
	w.eventually("the watch tells it", func() bool { return b.knows(n) == "a" })
}

// BenchmarkNewEndpoint is what it costs to tell another host of one more endpoint.
func BenchmarkNewEndpoint(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(strconv.Itoa(count), func(b *testing.B) {
			w := newWorld(b, "a", "b")
			one, two := w.hosts["a"], w.hosts["b"]
			next := netip.MustParseAddr("10.77.1.0")
			more := func() netip.Addr {
				next = next.Next()
				return one.has(next.String(), 1)
			}
			for range count {
				more()
			}
			qt.Assert(b, qt.IsNil(one.send(b.Context(), next, two.has("10.77.0.66", 1))))
			before, n := w.told.Load(), 0
			for b.Loop() {
				one.Here("default", more())
				n++
			}
			b.ReportMetric(float64(w.told.Load()-before)/float64(n), "told/op")
			qt.Check(b, qt.Equals(two.knows(next), "a"))
		})
	}
}
