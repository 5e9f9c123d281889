package vem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
	"github.com/snapctl/snapctl/vem/wake"
)

// fakeHolder is a holder in memory.
type fakeHolder struct {
	*holder.Memory
	fail error // of Put
}

func (h *fakeHolder) Put(ctx context.Context, app string, items []holder.Item) error {
	if h.fail != nil {
		return h.fail
	}
	return h.Memory.Put(ctx, app, items)
}

func (h *fakeHolder) Ready(context.Context) error { return h.fail }
func (h *fakeHolder) PID() int                    { return 1 }

// set is what is held of an app: one socket, or what stands for one.
func set(t *testing.T, inode uint64) *hold.Set {
	t.Helper()
	f, err := os.Open(os.DevNull)
	qt.Assert(t, qt.IsNil(err))
	return hold.NewSet([]hold.Socket{{Inode: inode, Kind: hold.TCP, File: f}})
}

// holds has an endpoint hold a socket.
func (w *world) holds(t *testing.T, app string, inode uint64) *Endpoint {
	t.Helper()
	e, err := w.Claim(t.Context(), Claim{ID: app, App: app, Network: DefaultNetwork})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(e.Hold(t.Context(), set(t, inode))))
	return e
}

func (w *world) kept(t *testing.T) map[string]int {
	t.Helper()
	kept, err := w.holder.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	return kept
}

func TestHoldAndRelease(t *testing.T) {
	w := newWorld(t)
	e := w.holds(t, "cache", 7)
	qt.Assert(t, qt.DeepEquals(w.kept(t), map[string]int{"cache": 1}))
	qt.Assert(t, qt.DeepEquals(e.HeldInodes(), map[uint64]bool{7: true}))
	qt.Assert(t, qt.Equals(e.Held().Sockets[0].Inode, 7))
	e.WakeFailed()
	qt.Assert(t, qt.IsNil(e.Release(t.Context())))
	qt.Assert(t, qt.IsNil(e.Release(t.Context())))
	qt.Assert(t, qt.HasLen(w.kept(t), 0))
	qt.Assert(t, qt.IsNil(e.Held()))
	qt.Assert(t, qt.HasLen(e.HeldInodes(), 0))
	qt.Assert(t, qt.Equals(e.holding.failures, 0))
}

// What the holder can't keep is released by the caller.
func TestHoldFails(t *testing.T) {
	w := newWorld(t)
	e := w.claim(t, "cache", "")
	w.holder.(*fakeHolder).fail = holder.ErrFull //nolint:forcetypeassert // it is
	qt.Assert(t, qt.ErrorIs(e.Hold(t.Context(), set(t, 1)), holder.ErrFull))
	qt.Assert(t, qt.IsNil(e.Release(t.Context())))
	qt.Assert(t, qt.IsNil(e.Held()))
}

func TestReclaim(t *testing.T) {
	w := newWorld(t)
	w.holds(t, "cache", 7)
	later := w.Adopt(Claim{ID: "cache", App: "cache", Network: DefaultNetwork}, Present)
	qt.Assert(t, qt.IsNil(later.Reclaim(t.Context(), "")))
	qt.Assert(t, qt.DeepEquals(later.HeldInodes(), map[uint64]bool{7: true}))
	qt.Assert(t, qt.Equals(later.Lost(), ""))
	qt.Assert(t, qt.Not(qt.Equals(BootID(DefaultBootFile), "")))
	for boot, want := range map[string]Loss{
		BootID(DefaultBootFile): LostByEnd,
		"of an earlier day":     LostByReboot,
		"":                      LostByEnd, // of a record that does not tell
	} {
		e := w.Adopt(Claim{ID: "gone", App: "gone", Network: DefaultNetwork}, Present)
		qt.Assert(t, qt.IsNil(e.Reclaim(t.Context(), boot)))
		qt.Check(t, qt.Equals(e.Lost(), want))
		qt.Check(t, qt.IsNil(e.Held()))
		qt.Assert(t, qt.IsNil(e.Release(t.Context())))
		qt.Check(t, qt.Equals(e.Lost(), ""))
	}
}

// TestRefill gives a new holder what the manager holds: not what it has let go of, and also
// what belongs to an app that is not known.
func TestRefill(t *testing.T) {
	w := newWorld(t)
	var refilled int
	w.opt.Refilled = func() { refilled++ }
	w.holds(t, "cache", 1)
	w.claim(t, "running", "")
	gone := w.holds(t, "gone", 3)
	orphan, running := w.holds(t, "orphan", 4), w.holds(t, "unreadable", 5)
	orphan.Free()
	running.Free()
	qt.Assert(t, qt.IsNil(gone.Release(t.Context())))
	fates := map[string]Fate{"cache": Keep, "orphan": Drop, "unreadable": Stray}
	qt.Assert(t, qt.IsNil(w.DropOrphans(t.Context(), func(id string) Fate { return fates[id] })))
	want := map[string]int{"cache": 1, "unreadable": 1}
	qt.Assert(t, qt.DeepEquals(w.kept(t), want))
	to := holder.NewMemory()
	defer to.Close()
	qt.Assert(t, qt.IsNil(w.refill(t.Context(), to)))
	kept, err := to.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(kept, want))
	qt.Assert(t, qt.Equals(refilled, 1))
	qt.Assert(t, qt.IsNil(errors.Join(orphan.drop(), running.drop())))
}

// TestQueues keeps the queues of networks: of those that have endpoints, and as long as they are
// shared.
func TestQueues(t *testing.T) {
	w := newWorld(t)
	file := func() *os.File {
		f, err := os.Open(os.DevNull)
		qt.Assert(t, qt.IsNil(err))
		return f
	}
	e := w.claim(t, "cache", "")
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	for range 2 { // the second one in place of the first
		qt.Assert(t, qt.IsNil(w.KeepQueue(t.Context(), DefaultNetwork, file())))
	}
	kept, err := w.KeptQueue(t.Context(), DefaultNetwork)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(kept.Close()))
	none, err := w.KeptQueue(t.Context(), "other")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(none))
	w.queues.of[DefaultNetwork].Close()
	delete(w.queues.of, DefaultNetwork) // as in a manager that has just started

	other := file()
	defer other.Close()
	qt.Assert(t, qt.IsNil(w.holder.Put(t.Context(), queueID("gone"), queueItem(other))))
	qt.Assert(t, qt.IsNil(w.DropOrphans(t.Context(), func(string) Fate { panic("no app has it") })))
	want := map[string]int{queueID(DefaultNetwork): 1}
	qt.Assert(t, qt.DeepEquals(w.kept(t), want))
	to := holder.NewMemory()
	defer to.Close()
	qt.Assert(t, qt.IsNil(w.refill(t.Context(), to)))
	list, err := to.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(list, want))

	qt.Assert(t, qt.IsNil(e.Detach(t.Context()))) // nobody is in the network any more
	qt.Assert(t, qt.DeepEquals(w.kept(t), map[string]int{}))
}

// TestRefillWaits has an endpoint let go of its sockets at the same time: they are not brought
// back. Others have theirs, whatever happens to one.
func TestRefillWaits(t *testing.T) {
	w := newWorld(t)
	busy := w.holds(t, "busy", 1)
	w.holds(t, "cache", 2)
	to := holder.NewMemory()
	defer to.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err := busy.exclusively(ctx, func() error {
		cancel() // while somebody else has it
		return w.refill(ctx, to)
	})
	qt.Assert(t, qt.ErrorIs(err, context.Canceled))

	refilled := make(chan error)
	err = busy.exclusively(t.Context(), func() error {
		go func() { refilled <- w.refill(t.Context(), to) }()
		return busy.drop()
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(<-refilled))
	kept, err := to.List(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(kept, map[string]int{"cache": 1}))
}

// armed arms an endpoint with one cause, which comes when something is sent.
func (w *world) armed(t *testing.T, e *Endpoint, policy wake.Policy) (come chan error, woken chan string, failed chan error) {
	t.Helper()
	come, woken, failed = make(chan error), make(chan string, 1), make(chan error, 1)
	cause := func(ctx context.Context) (string, error) {
		select {
		case err := <-come:
			return "timer", err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	qt.Assert(t, qt.IsNil(e.Arm(Alarm{
		NetPath: "/proc/self/ns/net", Policy: policy, Others: []Cause{cause},
		Wake: func(_ context.Context, by string) { woken <- by },
		Fail: func(_ context.Context, err error) { failed <- err },
	})))
	return come, woken, failed
}

// An endpoint that nothing can wake by traffic waits for the end of its caller.
func TestAwaitTrafficThatCannotCome(t *testing.T) {
	w := newWorld(t)
	for _, e := range []*Endpoint{w.claim(t, "idle", ""), w.holds(t, "cache", 7)} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := e.AwaitTraffic(ctx, "", wake.Policy{Mode: wake.Never})
		qt.Check(t, qt.ErrorIs(err, context.Canceled))
	}
	_, err := w.holds(t, "queue", 8).AwaitTraffic(t.Context(), "/none", wake.Policy{Mode: wake.OnData})
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

func TestArm(t *testing.T) {
	w := newWorld(t)
	e := w.claim(t, "cache", "")
	come, woken, _ := w.armed(t, e, wake.Policy{})
	qt.Assert(t, qt.IsNil(e.Arm(Alarm{Others: []Cause{func(context.Context) (string, error) { return "twice", nil }}})))
	come <- nil
	qt.Assert(t, qt.Equals(<-woken, "timer"))
	qt.Assert(t, qt.IsNil(e.Disarm()))

	// Disarming ends the wait, and nothing wakes after it.
	_, woken, failed := w.armed(t, e, wake.Policy{})
	qt.Assert(t, qt.IsNil(e.Disarm()))
	qt.Assert(t, qt.IsNil(e.Disarm()))
	qt.Assert(t, qt.HasLen(woken, 0))
	qt.Assert(t, qt.HasLen(failed, 0))

	come, woken, failed = w.armed(t, e, wake.Policy{})
	broken := fmt.Errorf("no clock")
	come <- broken
	qt.Assert(t, qt.ErrorIs(<-failed, broken))
	qt.Assert(t, qt.IsNil(e.Disarm()))
	qt.Assert(t, qt.HasLen(woken, 0))

	// Nothing can wake it.
	qt.Assert(t, qt.IsNil(e.Arm(Alarm{})))
	qt.Assert(t, qt.IsFalse(e.watching()))
}

func TestPauseAfterFailures(t *testing.T) {
	w := newWorld(t)
	e := w.claim(t, "cache", "")
	e.WakeFailed()
	qt.Assert(t, qt.Equals(e.holding.failures.pause().String(), "2s"))
	qt.Assert(t, qt.Equals(failures(0).pause().String(), "0s"))
	qt.Assert(t, qt.Equals(failures(100).pause().String(), "1m0s"))
	_, woken, _ := w.armed(t, e, wake.Policy{})
	qt.Assert(t, qt.IsNil(e.Disarm())) // it does not wait for the end of the pause
	qt.Assert(t, qt.HasLen(woken, 0))
}
