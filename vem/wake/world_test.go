package wake_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/wake"
)

// TestMain makes the test binary play the app too.
func TestMain(m *testing.M) { os.Exit(sockets.Main(m)) }

// held collects an app's sockets and ends it.
func held(w *sockets.World, files ...*os.File) *hold.Set {
	w.T.Helper()
	a := w.Run(files...)
	set := collected(w, a, collect.Options{})
	a.Kill(w.T)
	return set
}

func collected(w *sockets.World, a *sockets.App, opt collect.Options) *hold.Set {
	w.T.Helper()
	opt.NS = w.NS
	set, err := collect.App(w.T.Context(), []int{a.PID}, opt)
	qt.Assert(w.T, qt.IsNil(err))
	w.T.Cleanup(func() { qt.Check(w.T, qt.IsNil(set.Close())) })
	return set
}

// silence is how long a test watches for a wake that must not come. Accept
// queues are looked into after 1 to 15 ms when a packet came, and every 250 ms
// without.
const silence = 300 * time.Millisecond

// asleep checks that nothing wakes.
func asleep(tb testing.TB, w *wake.Watcher) {
	tb.Helper()
	asleepFor(tb, w, silence)
}

func asleepFor(tb testing.TB, w *wake.Watcher, d time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	defer cancel()
	e, err := w.Wait(ctx)
	qt.Assert(tb, qt.ErrorIs(err, context.DeadlineExceeded), qt.Commentf("woken by %+v", e))
}

// awake waits for a wake and checks its reason.
func awake(tb testing.TB, w *wake.Watcher, reason wake.Reason) wake.Event {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	e, err := w.Wait(ctx)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.Equals(e.Reason, reason))
	return e
}

func watch(w *sockets.World, set *hold.Set, policy wake.Policy) *wake.Watcher {
	w.T.Helper()
	watcher, err := wake.NewWatcher(set, policy, w.NS)
	qt.Assert(w.T, qt.IsNil(err))
	w.T.Cleanup(func() { watcher.Close() })
	return watcher
}
