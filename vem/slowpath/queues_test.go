package slowpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-quicktest/qt"
)

// All that waits goes out before the way is open, in order, and what comes later at once.
func TestInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		found, opened := make(chan struct{}), make(chan struct{})
		w.answer("10.77.1.1", func(ctx context.Context) (Way, error) {
			return road{w, nil, until(opened)}, until(found)(ctx)
		})
		for i := range 3 {
			w.send("10.77.0.2", "10.77.1.1", fmt.Sprint(i))
		}
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.2"}))
		s := w.snapshot()
		qt.Check(t, qt.Equals(s.Packets, 3))
		qt.Check(t, qt.HasLen(s.Destinations, 1))
		qt.Check(t, qt.Equals(s.Destinations[0].State, Asking))
		close(found)
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"prepare", "write 0", "write 1", "write 2", "open"}))
		w.send("10.77.0.2", "10.77.1.1", "while it is opened")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"write while it is opened"}))
		close(opened)
		synctest.Wait()
		w.send("10.77.0.3", "10.77.1.1", "was underway")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"write was underway"}))
		<-time.After(linger)
		synctest.Wait()
		w.send("10.77.0.3", "10.77.1.1", "much later")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.3", "prepare", "write much later", "open"}))
		<-time.After(linger)
		synctest.Wait()
		s = w.snapshot()
		qt.Check(t, qt.Equals(s.Delivered, 6))
		qt.Check(t, qt.Equals(s.Lookups, 2))
		w.isEmpty()
	})
}

// isEmpty fails the test if anything is left of what there was.
func (w *world) isEmpty() {
	w.t.Helper()
	synctest.Wait()
	w.queues.mu.Lock()
	defer w.queues.mu.Unlock()
	qt.Check(w.t, qt.HasLen(w.destinations, 0))
	qt.Check(w.t, qt.HasLen(w.sources, 0))
	qt.Check(w.t, qt.Equals(w.bytes, 0))
}

func TestNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		found := make(chan struct{})
		w.answer("10.77.1.1", func(ctx context.Context) (Way, error) { return nil, errors.Join(ErrNobody, until(found)(ctx)) })
		w.send("10.77.0.2", "10.77.1.1", "0")
		w.send("10.77.0.3", "10.77.1.1", "1")
		synctest.Wait()
		close(found)
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.2", "refuse 0", "refuse 1"}))
		w.send("10.77.0.3", "10.77.1.1", "2")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"refuse 2"}), qt.Commentf("remembered"))
		s := w.snapshot()
		qt.Check(t, qt.Equals(s.Negative, 1))
		qt.Check(t, qt.DeepEquals(s.Dropped, map[Reason]uint64{Nobody: 3}))
		w.forget(addr("10.77.1.1"))
		w.send("10.77.0.3", "10.77.1.1", "3")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.3", "refuse 3"}), qt.Commentf("forgotten"))
		<-time.After(2 * time.Second)
		w.isEmpty()
		w.answer("10.77.1.1", func(context.Context) (Way, error) { return road{w: w}, nil })
		w.send("10.77.0.3", "10.77.1.1", "4")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.3", "prepare", "write 4", "open"}))
	})
}

// Who closes a way while it is being opened makes the next packet ask again, but not before that
// has ended.
func TestForgetWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		opened := make(chan struct{})
		w.answer("10.77.1.1", func(context.Context) (Way, error) { return road{w, nil, until(opened)}, nil })
		w.send("10.77.0.2", "10.77.1.1", "0")
		synctest.Wait()
		w.forget(addr("10.77.1.1"))
		w.send("10.77.0.2", "10.77.1.1", "1")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.2", "prepare", "write 0", "open", "write 1"}))
		close(opened)
		synctest.Wait()
		w.send("10.77.0.2", "10.77.1.1", "2")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.2", "prepare", "write 2", "open"}))
	})
}

// A source that may not get to a destination does not stand in the way of others that may.
func TestBarredSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		found, tries := make(chan struct{}), 0
		w.answer("10.77.1.1", func(ctx context.Context) (Way, error) {
			if tries++; tries < 3 {
				return nil, errors.Join(ErrSource, until(found)(ctx))
			}
			return road{w: w}, nil
		})
		w.send("10.77.0.1", "10.77.1.1", "0")
		w.send("10.77.0.2", "10.77.1.1", "1")
		w.send("10.77.0.1", "10.77.1.1", "2")
		w.send("10.77.0.3", "10.77.1.1", "3")
		synctest.Wait()
		close(found)
		qt.Check(t, qt.DeepEquals(w.happened(), []string{
			"resolve 10.77.1.1 for 10.77.0.1", "refuse 0", "refuse 2",
			"resolve 10.77.1.1 for 10.77.0.2", "refuse 1",
			"resolve 10.77.1.1 for 10.77.0.3", "prepare", "write 3", "open",
		}))
		qt.Check(t, qt.DeepEquals(w.snapshot().Dropped, map[Reason]uint64{Barred: 3}))
		<-time.After(linger)
		w.isEmpty()
		tries = 0
		w.send("10.77.0.1", "10.77.1.1", "4")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.1", "refuse 4"}))
		w.isEmpty()
	})
}

// Whoever learns of an endpoint while the directory is being asked makes it be asked again.
func TestForgetWhileAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		found := make(chan struct{})
		w.answer("10.77.1.1", func(ctx context.Context) (Way, error) { return nil, errors.Join(ErrNobody, until(found)(ctx)) })
		w.send("10.77.0.2", "10.77.1.1", "0")
		synctest.Wait()
		w.answer("10.77.1.1", func(context.Context) (Way, error) { return road{w: w}, nil })
		w.forget(addr("10.77.1.1"))
		close(found)
		qt.Check(t, qt.DeepEquals(w.happened(), []string{
			"resolve 10.77.1.1 for 10.77.0.2", "resolve 10.77.1.1 for 10.77.0.2", "prepare", "write 0", "open",
		}))
	})
}

// A directory that can't be reached, and a peer that is away.
func TestTriesAgain(t *testing.T) {
	for name, test := range map[string]struct {
		broken func(w *world) (Way, error)
		tries  []string
	}{
		"resolve": {func(*world) (Way, error) { return nil, errors.New("away") }, []string{"resolve 10.77.1.1 for 10.77.0.2"}},
		"no way":  {func(*world) (Way, error) { return nil, nil }, []string{"resolve 10.77.1.1 for 10.77.0.2"}},
		"prepare": {func(w *world) (Way, error) {
			return road{w, func(context.Context) error { return errors.New("away") }, nil}, nil
		}, []string{"resolve 10.77.1.1 for 10.77.0.2", "prepare"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Limits{})
				defer w.end(dropping)
				w.answer("10.77.1.1", func(context.Context) (Way, error) { return test.broken(w) })
				w.send("10.77.0.2", "10.77.1.1", "0")
				qt.Check(t, qt.DeepEquals(w.happened(), test.tries))
				<-time.After(firstPause)
				qt.Check(t, qt.DeepEquals(w.happened(), test.tries))
				<-time.After(firstPause)
				qt.Check(t, qt.HasLen(w.happened(), 0), qt.Commentf("the pauses grow"))
				w.forget(addr("10.77.1.1"))
				qt.Check(t, qt.DeepEquals(w.happened(), test.tries))
				w.answer("10.77.1.1", func(context.Context) (Way, error) { return road{w: w}, nil })
				w.send("10.77.0.2", "10.77.1.1", "1")
				<-time.After(lastPause)
				qt.Check(t, qt.DeepEquals(w.happened(), []string{
					"resolve 10.77.1.1 for 10.77.0.2", "prepare", "write 0", "write 1", "open",
				}))
				qt.Check(t, qt.Equals(w.snapshot().Failures, 3))
			})
		})
	}
}

// A resolver that does not answer has so much time as the first packet may wait.
func TestExpires(t *testing.T) {
	for name, hang := range map[string]bool{"hangs": true, "fails": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Limits{Patience: 20 * time.Second})
				defer w.end(dropping)
				w.answer("10.77.1.1", func(ctx context.Context) (Way, error) {
					if hang {
						<-ctx.Done()
					}
					return nil, errors.New("away")
				})
				w.send("10.77.0.2", "10.77.1.1", "0")
				<-time.After(19 * time.Second)
				w.send("10.77.0.2", "10.77.1.1", "1")
				tries := w.happened()
				<-time.After(lastPause)
				end := w.happened()
				qt.Check(t, qt.DeepEquals(end[len(end)-2:], []string{"refuse 0", "refuse 1"}))
				qt.Check(t, qt.IsTrue(len(tries) >= 1 && len(tries) < 12), qt.Commentf("%d", len(tries)))
				qt.Check(t, qt.DeepEquals(w.snapshot().Dropped, map[Reason]uint64{Expired: 2}))
				w.isEmpty()
			})
		})
	}
}

// What failed to open goes on by the prepared way, and is looked up again.
func TestOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		w.answer("10.77.1.1", func(context.Context) (Way, error) {
			return road{w, nil, func(context.Context) error { return errors.New("no") }}, nil
		})
		w.send("10.77.0.2", "10.77.1.1", "0")
		synctest.Wait()
		w.send("10.77.0.2", "10.77.1.1", "1")
		<-time.After(linger)
		synctest.Wait()
		w.send("10.77.0.2", "10.77.1.1", "2")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{
			"resolve 10.77.1.1 for 10.77.0.2", "prepare", "write 0", "open", "write 1",
			"resolve 10.77.1.1 for 10.77.0.2", "prepare", "write 2", "open",
		}))
	})
}

func TestKernelRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		w.answer("10.77.1.1", func(context.Context) (Way, error) { return road{w: w}, nil })
		w.send("10.77.0.2", "10.77.1.1", "broken")
		synctest.Wait()
		qt.Check(t, qt.DeepEquals(w.snapshot().Dropped, map[Reason]uint64{Refused: 1}))
	})
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		to := addr("10.77.1.1")
		w.answer("10.77.1.1", func(context.Context) (Way, error) { return road{w: w}, nil })
		qt.Assert(t, qt.IsNil(w.gate(t.Context(), to)))
		qt.Assert(t, qt.IsNil(w.gate(t.Context(), to)))
		w.send("10.77.0.2", "10.77.1.1", "0")
		w.forget(to)
		<-time.After(time.Hour)
		w.send("10.77.0.3", "10.77.1.1", "1")
		qt.Check(t, qt.HasLen(w.happened(), 0))
		qt.Check(t, qt.Equals(w.snapshot().Destinations[0].State, Gated))
		w.release(to)
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.2", "prepare", "write 0", "write 1", "open"}))

		// While what was underway passes.
		qt.Assert(t, qt.IsNil(w.gate(t.Context(), to)))
		w.send("10.77.0.2", "10.77.1.1", "2")
		qt.Check(t, qt.HasLen(w.happened(), 0))
		w.release(to)
		qt.Check(t, qt.HasLen(w.happened(), 4))
		<-time.After(linger)

		// With nothing that waits.
		qt.Assert(t, qt.IsNil(w.gate(t.Context(), to)))
		w.release(to)
		w.release(to)
		w.isEmpty()
		qt.Check(t, qt.HasLen(w.happened(), 0))
	})
}

// A gate ends a look-up, and waits for what can't be ended.
func TestGateWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		to := addr("10.77.1.1")
		stubborn := make(chan struct{})
		w.answer("10.77.1.1", func(context.Context) (Way, error) {
			return road{w, func(context.Context) error { <-stubborn; return nil }, nil}, nil
		})
		w.send("10.77.0.2", "10.77.1.1", "0")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.2", "prepare"}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		qt.Check(t, qt.ErrorIs(w.gate(ctx, to), context.DeadlineExceeded))
		gated := make(chan error, 1)
		go func() { gated <- w.gate(t.Context(), to) }()
		synctest.Wait()
		select {
		case <-gated:
			t.Error("gated while the way is prepared")
		default:
		}
		close(stubborn)
		qt.Check(t, qt.IsNil(<-gated))
		qt.Check(t, qt.HasLen(w.happened(), 0), qt.Commentf("it waits"))
		w.end(leaving)
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"write 0"}), qt.Commentf("back to the device"))
		qt.Check(t, qt.ErrorIs(w.gate(t.Context(), to), fs.ErrClosed))
		w.send("10.77.0.2", "10.77.1.1", "1")
		qt.Check(t, qt.DeepEquals(w.snapshot().Dropped, map[Reason]uint64{Closed: 1}))
		w.isEmpty()
	})
}

// A packet that went astray is dropped, and its sender is not told.
func TestStray(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		defer w.end(dropping)
		w.answer("10.77.1.1", func(context.Context) (Way, error) { return nil, errors.Join(ErrStray, ErrSource) })
		w.send("10.77.0.1", "10.77.1.1", "0")
		qt.Check(t, qt.DeepEquals(w.happened(), []string{"resolve 10.77.1.1 for 10.77.0.1"}))
		qt.Check(t, qt.DeepEquals(w.snapshot().Dropped, map[Reason]uint64{Barred: 1}))
		w.isEmpty()
	})
}
