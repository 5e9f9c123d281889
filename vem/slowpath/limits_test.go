package slowpath

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-quicktest/qt"
)

// What is flooded, and who floods, leaves room for others.
func TestLimits(t *testing.T) {
	const size = 100
	const cost = size + frameCost
	text := string(make([]byte, size-ethLen-v4Len-8))
	for name, test := range map[string]struct {
		limits Limits
		flood  func(w *world, i int)
		kept   int
		why    Reason
	}{
		"destination": {Limits{DestinationBytes: 10 * cost}, func(w *world, i int) {
			w.send(fmt.Sprintf("10.77.0.%d", 2+i), "10.77.1.1", text)
		}, 10, DestinationFull},
		"source": {Limits{SourceBytes: 10 * cost}, func(w *world, i int) {
			w.send("10.77.0.2", fmt.Sprintf("10.77.1.%d", 1+i%3), text)
		}, 10, SourceFull},
		"all": {Limits{Bytes: 10 * cost}, func(w *world, i int) {
			w.send(fmt.Sprintf("10.77.0.%d", 2+i), fmt.Sprintf("10.77.1.%d", 1+i), text)
		}, 10, Full},
		"scan": {Limits{SourceDestinations: 10}, func(w *world, i int) {
			w.send("10.77.0.2", fmt.Sprintf("10.77.1.%d", 1+i), text)
		}, 10, Scan},
		"destinations": {Limits{Destinations: 10}, func(w *world, i int) {
			w.send(fmt.Sprintf("10.77.0.%d", 2+i), fmt.Sprintf("10.77.1.%d", 1+i), text)
		}, 10, TooMany},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.limits)
				for i := range 100 {
					w.answer(fmt.Sprintf("10.77.1.%d", i+1), func(ctx context.Context) (Way, error) { return nil, until(nil)(ctx) })
				}
				for i := range 100 {
					test.flood(w, i)
				}
				synctest.Wait()
				s := w.snapshot()
				qt.Check(t, qt.Equals(s.Packets, test.kept))
				qt.Check(t, qt.Equals(s.Bytes, test.kept*cost))
				qt.Check(t, qt.DeepEquals(s.Dropped, map[Reason]uint64{test.why: uint64(100 - test.kept)}))
				if test.why != Full && test.why != TooMany {
					w.answer("10.77.2.1", func(context.Context) (Way, error) { return road{w: w}, nil })
					w.happened()
					w.send("10.77.3.3", "10.77.2.1", "another's")
					qt.Check(t, qt.Equals(len(w.happened()), 4))
				}
				w.end(dropping)
				qt.Check(t, qt.Equals(w.snapshot().Dropped[Closed], uint64(test.kept)))
				w.isEmpty()
			})
		})
	}
}

// A port scan is answered by few look-ups, and what is remembered of it counts as well.
func TestScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		to := addr("10.77.1.0")
		for range 10 { // seconds
			for range 1000 {
				to = to.Next()
				w.send("10.77.0.2", to.String(), "scan")
				<-time.After(time.Millisecond)
			}
		}
		synctest.Wait()
		s := w.snapshot()
		qt.Check(t, qt.Equals(s.Lookups, 5*128))
		qt.Check(t, qt.Equals(s.Dropped[Scan], 10000-5*128))
		<-time.After(2 * time.Second)
		w.isEmpty()
	})
}

// Look-ups that take their time leave room for those of others.
func TestLookupsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{Lookups: 6, SourceLookups: 3})
		defer w.end(dropping)
		slow := func(ctx context.Context) (Way, error) { return nil, until(nil)(ctx) }
		for _, from := range []string{"10.77.0.2", "10.77.0.3"} {
			for i := range 5 {
				to := netip.AddrFrom4([4]byte{10, 77, addr(from).As4()[3], byte(1 + i)}).String()
				w.answer(to, slow)
				w.send(from, to, "slow")
				synctest.Wait()
			}
		}
		qt.Check(t, qt.DeepEquals(w.happened(), []string{
			"resolve 10.77.2.1 for 10.77.0.2", "resolve 10.77.2.2 for 10.77.0.2", "resolve 10.77.2.3 for 10.77.0.2",
			"resolve 10.77.3.1 for 10.77.0.3", "resolve 10.77.3.2 for 10.77.0.3", "resolve 10.77.3.3 for 10.77.0.3",
		}))
		w.answer("10.77.4.1", slow)
		w.send("10.77.0.4", "10.77.4.1", "third")
		qt.Check(t, qt.HasLen(w.happened(), 0))
		<-time.After(w.limits.Patience)
		synctest.Wait()
		qt.Check(t, qt.Equals(w.snapshot().Dropped[Expired], 11))
	})
}
