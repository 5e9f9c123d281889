package probe

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// The largest packet is found in each direction, exactly, and soon.
func TestSize(t *testing.T) {
	for name, test := range map[string]struct {
		device, there, back int
		loss                float64
		want, wantBack      int
	}{
		"no hole":          {device: 1500, want: 1500, wantBack: 1500},
		"hole there":       {device: 1500, there: 1437, want: 1437, wantBack: 1500},
		"hole back":        {device: 1500, back: 1401, want: 1500, wantBack: 1401},
		"1280":             {device: 1280, want: 1280, wantBack: 1280},
		"1280 in between":  {device: 1500, there: 1280, want: 1280, wantBack: 1500},
		"1281 in between":  {device: 1500, there: 1281, want: 1281, wantBack: 1500},
		"too small":        {device: 1500, there: 1200, want: 1279, wantBack: 1500},
		"device too small": {device: 1000, want: 0, wantBack: 0},
		"9000":             {device: 9000, want: 9000, wantBack: 9000},
		"1500 in 9000":     {device: 9000, there: 1500, back: 1500, want: 1500, wantBack: 1500},
		"8999 in 9000":     {device: 9000, there: 8999, want: 8999, wantBack: 9000},
		"65535":            {device: 65536, want: 65535, wantBack: 65535},
		"lossy":            {device: 1500, loss: 0.2, want: 1500, wantBack: 1500},
		"lossy, hole":      {device: 1500, there: 1437, loss: 0.1, want: 1437, wantBack: 1500},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 7, 1)
			l := w.links[0]
			w.a.setLimits(map[netip.Addr]int{l.Local: test.device})
			w.b.setLimits(map[netip.Addr]int{l.Remote.Addr(): test.device})
			l.there, l.back = lane{mtu: test.there, loss: test.loss, delay: time.Millisecond}, lane{mtu: test.back, loss: test.loss, delay: time.Millisecond}
			w.run(400*time.Millisecond, nil)
			if test.loss == 0 && test.there >= smallest && test.there < 9000 { // a size that fits is found at once
				qt.Check(t, qt.IsTrue(w.way(0).MTU >= smallest && w.way(0).MTU <= test.there), qt.Commentf("%d", w.way(0).MTU))
			}
			w.run(10*time.Second, nil)
			if test.loss > 0 { // what was lost by chance is found later
				w.run(5*time.Minute, nil)
			}
			qt.Check(t, qt.Equals(w.way(0).MTU, test.want))
			qt.Check(t, qt.Equals(w.b.peers["a"].ways[0].told().MTU, test.wantBack))
		})
	}
}

// A way that gets smaller is found so, and is not taken for one that is down; a way that gets
// larger is found so later.
func TestSizeChanges(t *testing.T) {
	w := newWorld(t, 7, 1)
	l := w.links[0]
	w.run(20*time.Second, nil)
	for _, mtu := range []int{1450, 1300, 1280} {
		l.there.mtu = mtu
		began, found := w.now, time.Duration(0)
		w.run(30*time.Second, func() {
			if found == 0 && w.way(0).MTU <= mtu {
				found = w.now.Sub(began)
			}
		})
		qt.Check(t, qt.Equals(w.way(0).MTU, mtu))
		qt.Check(t, qt.IsTrue(found < 12*time.Second), qt.Commentf("%d after %s", mtu, found))
		qt.Check(t, qt.Equals(w.way(0).State, Up))
		qt.Check(t, qt.IsTrue(w.way(0).Steady))
	}
	l.there.mtu = 1200
	w.run(30*time.Second, nil)
	qt.Check(t, qt.Equals(w.way(0).MTU, smallest-1))
	l.there.mtu = 1400
	w.run(3*time.Minute, nil)
	qt.Check(t, qt.Equals(w.way(0).MTU, 1400))
	l.there.mtu = 0
	w.run(2*time.Minute, nil)
	qt.Check(t, qt.Equals(w.way(0).MTU, 1500))
}

// A network that is cut in the middle of a search, or a host that is slow to answer, is not taken for a
// way by which large packets don't come through: no channel would take that one for a while.
func TestSizeWhileAllIsLost(t *testing.T) {
	for name, meanwhile := range map[string]lane{
		"cut":  {cut: true},
		"slow": {delay: 180 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 7, 1)
			l, began := w.links[0], w.now
			w.run(10*time.Second, func() { // the first ask is on its way when this is called first, and will be answered
				if l.there = meanwhile; w.now.Sub(began) > 900*time.Millisecond {
					l.there = lane{delay: time.Millisecond}
				}
				qt.Assert(t, qt.IsTrue(w.way(0).MTU != smallest-1), qt.Commentf("after %s", w.now.Sub(began)))
			})
			qt.Check(t, qt.Equals(w.way(0).MTU, 1500))
		})
	}
}

// This host can't send what the device's MTU promised.
func TestSizeThatCantBeSent(t *testing.T) {
	w := newWorld(t, 7, 1)
	w.run(time.Millisecond, nil)
	for range 100 {
		w.run(100*time.Millisecond, func() {
			for _, s := range w.a.out {
				if s.why != alive && s.size > 1444 {
					w.a.refused(s.number)
				}
			}
		})
	}
	qt.Check(t, qt.Equals(w.way(0).MTU, 1444))
}

// A search asks for few sizes, whatever the answer.
func TestSearchEnds(t *testing.T) {
	for _, limit := range []int{1280, 1281, 1300, 1500, 9000, 65535} {
		for _, real := range []int{1279, 1280, 1281, 1399, 1400, 1500, 8999, 65535} {
			t.Run(fmt.Sprint(real, " of ", limit), func(t *testing.T) {
				s := newSearch(limit)
				rounds := 0
				for ; !s.done() && rounds < 100; rounds++ {
					list := s.next()
					qt.Assert(t, qt.IsTrue(len(list) > 0 && len(list) <= atOnce), qt.Commentf("%v", list))
					for _, n := range list {
						if n <= real {
							s.passed(n)
						} else {
							s.lost(n, minMisses)
						}
					}
					s.settle()
				}
				qt.Check(t, qt.Equals(s.found, min(real, limit)))
				qt.Check(t, qt.IsTrue(rounds <= 15), qt.Commentf("%d rounds", rounds))
			})
		}
	}
}
