package probe

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// world is two hosts whose clock is a number, with links between them.
type world struct {
	t      *testing.T
	now    time.Time
	random *rand.Rand
	a, b   *book
	links  []*link
	flying []flight
	sent   int // datagrams
}

// link is a way, the n-th one.
type link struct {
	Pair

	there, back lane
	mtu         int // of the devices at its ends
}

// lane is one direction of a link.
type lane struct {
	loss  float64
	delay time.Duration
	mtu   int // larger packets are swallowed; 0: none
	cut   bool
}

// flight is a datagram on its way.
type flight struct {
	datagram

	to  *book
	due time.Time
}

func newWorld(t *testing.T, seed uint64, links int) *world {
	t.Helper()
	w := &world{
		t: t, now: time.Unix(1_000_000, 0), random: rand.New(rand.NewPCG(seed, 1)),
		a: newBook(time.Second), b: newBook(time.Second),
	}
	var there, back []Pair
	limits := [2]map[netip.Addr]int{{}, {}}
	for i := range links {
		l := &link{mtu: 1500, there: lane{delay: time.Millisecond}, back: lane{delay: time.Millisecond}}
		a, b := netip.AddrFrom4([4]byte{192, 0, 2, byte(10 * i)}), netip.AddrFrom4([4]byte{192, 0, 2, byte(10*i + 1)})
		l.Pair = Pair{a, netip.AddrPortFrom(b, 7077)}
		there, back = append(there, l.Pair), append(back, Pair{b, netip.AddrPortFrom(a, 7077)})
		limits[0][a], limits[1][b] = l.mtu, l.mtu
		w.links = append(w.links, l)
	}
	w.a.setLimits(limits[0])
	w.b.setLimits(limits[1])
	ab, ba := Key{Name: KeyName{1}, secret: [32]byte{1}}, Key{Name: KeyName{2}, secret: [32]byte{2}}
	w.a.askBy("b", ab)
	w.b.answerTo("a", ab)
	w.b.askBy("a", ba)
	w.a.answerTo("b", ba)
	w.a.setWays("b", there, w.now)
	w.b.setWays("a", back, w.now)
	return w
}

// fly puts a datagram on its way, if it gets through.
func (w *world) fly(from *book, list ...datagram) {
	for _, d := range list {
		w.sent++
		for _, l := range w.links {
			dir, to := &l.there, w.b
			if from == w.b {
				dir, to = &l.back, w.a
			}
			if d.from != l.Local && d.from != l.Remote.Addr() {
				continue
			}
			size := len(d.data) + l.overhead()
			if dir.cut || dir.mtu > 0 && size > dir.mtu || w.random.Float64() < dir.loss {
				continue
			}
			w.flying = append(w.flying, flight{d, to, w.now.Add(dir.delay)})
		}
	}
}

// run lets time pass, step by step, and calls each after each step.
func (w *world) run(d time.Duration, each func()) {
	const step = time.Millisecond
	next := map[*book]time.Time{}
	for end := w.now.Add(d); w.now.Before(end); {
		for _, b := range []*book{w.a, w.b} {
			if at, ok := next[b]; !ok || b.urgent || !at.IsZero() && !w.now.Before(at) {
				var list []datagram
				list, next[b] = b.tick(w.now)
				w.fly(b, list...)
			}
		}
		if each != nil {
			each()
		}
		soon := end
		for _, at := range next {
			if !at.IsZero() && at.Before(soon) {
				soon = at
			}
		}
		for _, f := range w.flying {
			if f.due.Before(soon) {
				soon = f.due
			}
		}
		w.now = maxTime(w.now.Add(step), soon)
		w.land()
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// land delivers what has arrived.
func (w *world) land() {
	var rest []flight
	var here []flight
	for _, f := range w.flying {
		if f.due.After(w.now) {
			rest = append(rest, f)
		} else {
			here = append(here, f)
		}
	}
	w.flying = rest
	for _, f := range here {
		if d, ok := f.to.receive(f.data, f.datagram.to.Addr(), netip.AddrPortFrom(f.from, 7077), w.now); ok {
			w.fly(f.to, d)
		}
	}
}

// way is what a knows of the n-th way.
func (w *world) way(n int) Way { return w.a.peers["b"].ways[n].told() }

func (w *world) ways() (list []Way) {
	for i := range w.links {
		list = append(list, w.way(i))
	}
	return list
}

// changes counts how often a would change ways, from the n-th one.
func (w *world) changes(now *int) func() {
	return func() {
		if n := Choose(w.ways(), *now); n >= 0 {
			*now = n
		}
	}
}

func states(list []Way) (all []State) {
	for _, w := range list {
		all = append(all, w.State)
	}
	return slices.Clip(all)
}
