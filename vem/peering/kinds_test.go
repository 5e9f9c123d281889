package peering

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// kind is what both hosts say that their channel is.
func (w *world) kind(a, b string) string {
	w.t.Helper()
	one, _, up1 := w.hosts[a].net.now(w.hosts[a].net.link(b))
	two, _, up2 := w.hosts[b].net.now(w.hosts[b].net.link(a))
	qt.Check(w.t, qt.Equals(one.Module, two.Module))
	qt.Check(w.t, qt.Equals(up1, up2))
	return one.Module
}

// unmet is what a host says of the kind that it was told to have.
func (h *host) unmet() string {
	h.w.t.Helper()
	list, err := h.Channels(h.w.t.Context())
	qt.Assert(h.w.t, qt.IsNil(err))
	qt.Assert(h.w.t, qt.HasLen(list, 1))
	return list[0].Unmet
}

// newWorldOfKinds has two hosts on one link that make all kinds.
func newWorldOfKinds(t *testing.T) (w *world, a, b *host) {
	t.Helper()
	w = newWorld(t, "a", "b")
	w.runBeside()
	for _, h := range w.hosts {
		h.makes("direct", "tunnel", "vxlan")
	}
	return w, w.hosts["a"], w.hosts["b"]
}

// Whichever host asks, both have a channel of the same kind, by what both make and were told to
// have; and who was told to have another one says why it does not.
func TestKinds(t *testing.T) {
	all := []string{"direct", "tunnel", "vxlan"}
	for name, x := range map[string]struct {
		makesA, makesB []string
		givenA, givenB string
		want           string
		unmetA, unmetB string
	}{
		"nothing said":         {all, all, "", "", "direct", "", ""},
		"one is told":          {all, all, "vxlan", "", "vxlan", "", ""},
		"both are told":        {all, all, "tunnel", "tunnel", "tunnel", "", ""},
		"they differ":          {all, all, "direct", "vxlan", "vxlan", "this host is to have direct, and host b vxlan, which counts for more", ""},
		"they differ too":      {all, all, "tunnel", "direct", "tunnel", "", "this host is to have direct, and host a tunnel, which counts for more"},
		"one can't":            {all, all[2:], "tunnel", "", "vxlan", "this host is to have tunnel, which host b does not make, or not between these networks", ""},
		"the one that counts":  {all[:2], all, "direct", "vxlan", "direct", "", "this host is to have vxlan, which host a does not make, or not between these networks"},
		"what both can't have": {all[:2], all[1:], "direct", "vxlan", "tunnel", "this host is to have direct, which host b does not make, or not between these networks", "this host is to have vxlan, which host a does not make, or not between these networks"},
	} {
		for _, asks := range []string{"a", "b"} {
			t.Run(name+", "+asks+" asks", func(t *testing.T) {
				w, a, b := newWorldOfKinds(t)
				a.makes(x.makesA...)
				b.makes(x.makesB...)
				a.told(x.givenA)
				b.told(x.givenB)
				one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
				if asks == "b" {
					one, two = two, one
				}
				qt.Assert(t, qt.IsNil(w.hosts[asks].send(t.Context(), one, two)))
				qt.Check(t, qt.Equals(w.kind("a", "b"), x.want))
				qt.Check(t, qt.Equals(a.unmet(), x.unmetA))
				qt.Check(t, qt.Equals(b.unmet(), x.unmetB))
				w.agreed("a", "b")
			})
		}
	}
}

// A host is told something else while the channel is up: it changes if the rule says so, whichever
// host it was.
func TestGivenChanges(t *testing.T) {
	w, a, b := newWorldOfKinds(t)
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	for _, x := range []struct {
		who        *host
		kind, want string
	}{
		{a, "vxlan", "vxlan"},
		{b, "direct", "vxlan"},
		{b, "tunnel", "vxlan"},
		{a, "", "tunnel"},
		{a, "direct", "tunnel"},
		{b, "", "direct"},
		{b, "vxlan", "vxlan"},
		{a, "", "vxlan"},
		{b, "", "direct"},
	} {
		x.who.told(x.kind)
		other := "a"
		if x.who == a {
			other = "b"
		}
		qt.Assert(t, qt.IsNil(x.who.Reoffer(t.Context(), other)))
		qt.Check(t, qt.Equals(w.kind("a", "b"), x.want), qt.Commentf("%s is told %q", x.who.name, x.kind))
		qt.Check(t, qt.Equals(a.reaches(two)+b.reaches(one), "ba"))
	}
	w.agreed("a", "b")
}

// failing has kinds not come up on a host.
func (h *host) failing(kinds ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails = make(map[string]bool)
	for _, k := range kinds {
		h.fails[k] = true
	}
}

// A kind does not come up on one of two hosts: they have another one, whichever host asks.
func TestKindFails(t *testing.T) {
	for _, asks := range []string{"a", "b"} {
		w, a, b := newWorldOfKinds(t)
		a.failing("direct", "vxlan")
		b.told("vxlan")
		one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
		if asks == "b" {
			one, two = two, one
		}
		var err error
		for range 3 { // the slow path asks again
			if err = w.hosts[asks].send(t.Context(), one, two); err == nil {
				break
			}
		}
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(w.kind("a", "b"), "tunnel"))
		qt.Check(t, qt.Not(qt.Equals(b.unmet(), "")))
		w.agreed("a", "b")
	}
}

// A channel that is up is to be of a kind that does not come up on one of the hosts: it stays as it
// is on both, or is as both can have it.
func TestChangeFails(t *testing.T) {
	for _, fails := range []string{"a", "b"} {
		for _, cut := range []bool{false, true} {
			w, a, b := newWorldOfKinds(t)
			one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
			qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
			w.hosts[fails].failing("vxlan")
			a.told("vxlan")
			calls := 0
			w.cut = func(string, string) cutAt { // a does not get to ask a second time
				if calls++; cut && calls > 1 {
					return before
				}
				return uncut
			}
			err := a.Reoffer(t.Context(), "b")
			qt.Check(t, qt.Equals(err != nil, fails == "a"))
			w.mu.Lock()
			w.cut = nil
			w.mu.Unlock()
			if cut { // they meet again
				_, _ = a.Met(t.Context(), "b"), a.Reoffer(t.Context(), "b")
				w.eventually("both have one kind", func() bool {
					x, _, _ := a.net.now(a.net.link("b"))
					y, _, _ := b.net.now(b.net.link("a"))
					return x.Module == y.Module && x.Generation == y.Generation
				})
			}
			qt.Check(t, qt.Equals(w.kind("a", "b"), "direct"))
			qt.Check(t, qt.Equals(a.reaches(two)+b.reaches(one), "ba"))
			qt.Check(t, qt.Equals(a.unmet() == "", false))
			w.agreed("a", "b")
		}
	}
}

// eventually asks until something is so.
func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(time.Millisecond); !is(); <-tick.C {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// What did not come up once is tried again after a while.
func TestKindRecovers(t *testing.T) {
	w, a, b := newWorldOfKinds(t)
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	b.failing("direct")
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(w.kind("a", "b"), "tunnel"))
	b.failing()
	qt.Check(t, qt.HasLen(b.net.recovered(), 0))
	l := b.net.link("a")
	b.net.mu.Lock()
	l.failed["direct"] = time.Now().Add(-retryKind)
	b.net.mu.Unlock()
	qt.Assert(t, qt.IsNil(b.net.sweep(t.Context(), time.Now())))
	w.eventually("the best kind is there again", func() bool {
		now, _, _ := a.net.now(a.net.link("b"))
		return now.Module == "direct"
	})
}

// Whatever both hosts are told, what does not come up meanwhile, and what is cut: in the end they
// have one kind, and reach each other.
func TestKindsByChance(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex // guards chance, which what runs beside draws from too
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return chance.IntN(n)
	}
	kinds := []string{"", "direct", "tunnel", "vxlan"}
	for range 20 {
		w, a, b := newWorldOfKinds(t)
		one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
		w.cut = func(string, string) cutAt { return cutAt(draw(3)) }
		for range 12 {
			h, other := a, "b"
			if draw(2) == 0 {
				h, other = b, "a"
			}
			switch draw(5) {
			case 0:
				_, _ = a.send(t.Context(), one, two), b.send(t.Context(), two, one)
			case 1:
				h.told(kinds[draw(4)])
				_ = h.Reoffer(t.Context(), other)
			case 2:
				h.failing(kinds[draw(4)])
			case 3:
				_ = h.net.downAll(t.Context())
			case 4:
				_, _ = h.Met(t.Context(), other), h.Reoffer(t.Context(), other)
			}
		}
		w.mu.Lock()
		w.cut = nil
		w.mu.Unlock()
		a.failing()
		b.failing()
		w.again(a, one, two)
		w.again(b, two, one)
		w.eventually("both have one kind, and all packets get through", func() bool {
			for _, h := range []*host{a, b} {
				other := "a"
				if h == a {
					other = "b"
				}
				_, _ = h.Met(t.Context(), other), h.Reoffer(t.Context(), other)
			}
			x, _, _ := a.net.now(a.net.link("b"))
			y, _, _ := b.net.now(b.net.link("a"))
			return x.Module != "" && x.Module == y.Module && a.reaches(two) == "b" && b.reaches(one) == "a"
		})
		if t.Failed() {
			return
		}
	}
}
