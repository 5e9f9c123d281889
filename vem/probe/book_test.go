package probe

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

func TestWaysThatWork(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.links[1].there.delay = 20 * time.Millisecond
	qt.Check(t, qt.DeepEquals(states(w.ways()), []State{Unknown, Unknown}))
	w.run(15*time.Second, nil)
	for i, rtt := range []time.Duration{2 * time.Millisecond, 21 * time.Millisecond} {
		got := w.way(i)
		qt.Check(t, qt.Equals(got.State, Up))
		qt.Check(t, qt.IsTrue(got.Steady))
		qt.Check(t, qt.Equals(got.RoundTrip, rtt))
		qt.Check(t, qt.Equals(got.Loss, 0))
		qt.Check(t, qt.Equals(got.MTU, 1500))
	}
	qt.Check(t, qt.HasLen(w.a.out, 0))
}

// Three misses take less than three intervals, whenever the way fails.
func TestWayThatFails(t *testing.T) {
	for name, cut := range map[string]func(*link){
		"both directions": func(l *link) { l.there.cut, l.back.cut = true, true },
		"there":           func(l *link) { l.there.cut = true },
		"back":            func(l *link) { l.back.cut = true },
	} {
		t.Run(name, func(t *testing.T) {
			for _, phase := range []time.Duration{0, 3, 250, 600, 999} {
				w := newWorld(t, 1, 2)
				w.run(20*time.Second+phase*time.Millisecond, nil)
				cut(w.links[0])
				began := w.now
				var down [2]time.Duration
				w.run(4*time.Second, func() {
					for i, b := range []*book{w.a, w.b} {
						if p := b.peers[string("ba"[i])]; down[i] == 0 && p.ways[0].health.state == Down {
							down[i] = w.now.Sub(began)
						}
					}
				})
				for _, d := range down {
					qt.Check(t, qt.IsTrue(d > 0 && d <= 2600*time.Millisecond), qt.Commentf("%s after %s", d, phase*time.Millisecond))
				}
				qt.Check(t, qt.Equals(w.way(1).State, Up))
				w.links[0].there.cut, w.links[0].back.cut = false, false
				w.run(3*time.Second, nil)
				qt.Check(t, qt.Equals(w.way(0).State, Up))
				qt.Check(t, qt.IsFalse(w.way(0).Steady))
				w.run(20*time.Second, nil)
				qt.Check(t, qt.IsTrue(w.way(0).Steady))
			}
		})
	}
}

// The way that is taken changes when it fails and when it is good again, and not for its losses.
func TestChangesOfWay(t *testing.T) {
	for name, test := range map[string]struct {
		links []float64 // loss in each direction
		most  int       // changes in 20 minutes
		ends  int       // the way at the end
	}{
		"clean":                     {[]float64{0, 0}, 0, 0},
		"lossy, and a clean one":    {[]float64{0.3, 0}, 1, 1},
		"less lossy":                {[]float64{0.16, 0}, 3, 1},
		"clean, and a lossy one":    {[]float64{0, 0.3}, 0, 0},
		"both lossy":                {[]float64{0.3, 0.3}, 2, -1},
		"both lose a little":        {[]float64{0.02, 0.02}, 0, 0},
		"lossy, better is dead":     {[]float64{1, 0.3}, 1, 1},
		"lossy, the other is dead":  {[]float64{0.3, 1}, 0, 0},
		"nothing works":             {[]float64{1, 1}, 0, 0},
		"three, the best is lossy":  {[]float64{0.3, 0, 0}, 1, 1},
		"three, only the last good": {[]float64{0.3, 1, 0}, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) {
				w := newWorld(t, seed, len(test.links))
				for i, loss := range test.links {
					w.links[i].there.loss, w.links[i].back.loss = loss, loss
				}
				now, before, changes := 0, 0, 0
				w.run(20*time.Minute, func() {
					w.changes(&now)()
					if now != before {
						changes++
						before = now
					}
				})
				qt.Check(t, qt.IsTrue(changes <= test.most), qt.Commentf("seed %d: %d changes", seed, changes))
				if test.ends >= 0 {
					qt.Check(t, qt.Equals(now, test.ends), qt.Commentf("seed %d", seed))
				}
			}
		})
	}
}

// A better way that comes back is taken again, later each time that it fails again.
func TestBetterWayComesBack(t *testing.T) {
	w := newWorld(t, 1, 2)
	now, since := 0, []time.Duration(nil)
	change := w.changes(&now)
	w.run(20*time.Second, change)
	for range 4 {
		w.links[0].back.cut = true
		w.run(5*time.Second, change)
		qt.Assert(t, qt.Equals(now, 1))
		w.links[0].back.cut = false
		mended, back := w.now, time.Duration(0)
		w.run(3*time.Minute, func() {
			if change(); now == 0 && back == 0 {
				back = w.now.Sub(mended)
			}
		})
		qt.Assert(t, qt.Equals(now, 0))
		since = append(since, back.Round(10*time.Second))
	}
	qt.Check(t, qt.DeepEquals(since, []time.Duration{20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second}))
	w.run(15*time.Minute, change)
	qt.Check(t, qt.Equals(w.a.peers["b"].ways[0].health.needs, steadyAfter))
}

// All ways fail while the other host's daemon is started anew: then none is left.
func TestOtherHostIsStartedAnew(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.links[1].there.delay = 0
	now := 0
	change := func() {
		w.changes(&now)()
		qt.Assert(t, qt.Equals(now, 0))
	}
	w.run(30*time.Second, change)
	for _, down := range []time.Duration{time.Second, 5 * time.Second, 60 * time.Second} {
		delete(w.b.askers, KeyName{1})
		w.run(down, change)
		w.a.askBy("b", Key{Name: KeyName{byte(down)}})
		w.b.answerTo("a", Key{Name: KeyName{byte(down)}})
		w.run(2*time.Second, change)
		qt.Check(t, qt.Equals(w.way(0).State, Up))
	}
}

// Another key loses no echo, and the keys before are good for a while.
func TestOtherKey(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.links[0].there.delay = 400 * time.Millisecond
	w.run(20*time.Second, nil)
	w.b.answerTo("a", Key{Name: KeyName{9}})
	w.run(2500*time.Millisecond, nil)
	w.a.askBy("b", Key{Name: KeyName{9}})
	w.run(3*time.Second, nil)
	qt.Check(t, qt.Equals(w.way(0).Loss, 0))
	for i := range byte(10) {
		w.b.answerTo("a", Key{Name: KeyName{100 + i}})
	}
	qt.Check(t, qt.HasLen(w.b.askers, maxKeys))
}

// A way whose round trip is longer than the interval works, and its echoes are not lost.
func TestLongWay(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.run(10*time.Second, nil)
	w.links[0].there.delay, w.links[0].back.delay = 700*time.Millisecond, 700*time.Millisecond
	w.run(time.Minute, func() { qt.Assert(t, qt.Not(qt.Equals(w.way(0).State, Down))) })
	w.run(2*time.Minute, nil)
	got := w.way(0)
	qt.Check(t, qt.Equals(got.State, Up))
	qt.Check(t, qt.Equals(got.Loss, 0))
	qt.Check(t, qt.IsTrue(got.RoundTrip > 1300*time.Millisecond))
}

// Who has no way to ask by, or no key, sends nothing.
func TestSilence(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.a.setWays("b", nil, w.now)
	w.b.peers["a"].asks = false
	w.run(time.Minute, nil)
	qt.Check(t, qt.Equals(w.sent, 0))
	list, next := w.a.tick(w.now)
	qt.Check(t, qt.HasLen(list, 0))
	qt.Check(t, qt.IsTrue(next.IsZero()))
}

func TestForget(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.run(10*time.Second, nil)
	w.links[0].there.cut = true
	w.run(1200*time.Millisecond, nil)
	w.a.forget("b")
	qt.Check(t, qt.HasLen(w.a.out, 0))
	qt.Check(t, qt.HasLen(w.a.askers, 0))
	qt.Check(t, qt.HasLen(w.a.peers, 0))
	w.a.forget("b")
	w.run(5*time.Second, nil)
	qt.Check(t, qt.Equals(w.b.peers["a"].ways[1].health.state, Down)) // it is not answered
}

// What is known of a way stays while others come and go, and nothing is kept of those that go.
func TestWaysComeAndGo(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.run(20*time.Second, nil)
	w.links[1].there.cut = true
	w.run(700*time.Millisecond, nil)
	w.a.setWays("b", []Pair{w.links[0].Pair}, w.now)
	qt.Check(t, qt.IsTrue(w.way(0).Steady))
	for _, s := range w.a.out {
		qt.Check(t, qt.Equals(s.way.pair, w.links[0].Pair))
	}
	delete(w.a.limits, w.links[0].Local)
	sent := w.sent
	w.b.setWays("a", nil, w.now)
	w.run(5*time.Second, nil)
	qt.Check(t, qt.Equals(w.sent, sent)) // by an address that is gone nothing is sent
}

func TestNews(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.a.news()
	w.run(20*time.Second, nil)
	qt.Check(t, qt.DeepEquals(w.a.news(), []string{"b"}))
	w.run(time.Minute, nil)
	qt.Check(t, qt.HasLen(w.a.news(), 0))
	w.links[0].back.cut = true
	w.run(5*time.Second, nil)
	qt.Check(t, qt.DeepEquals(w.a.news(), []string{"b"}))
}
