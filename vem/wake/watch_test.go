package wake_test

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/wake"
)

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	w := sockets.New(t)
	set := held(w, w.Listen(sockets.App4, 1))

	t.Run("with the context", func(t *testing.T) {
		watcher := watch(w, set, wake.Policy{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := watcher.Wait(ctx)
			done <- err
		}()
		cancel()
		qt.Assert(t, qt.ErrorIs(<-done, context.Canceled))
		_, err := watcher.Wait(ctx)
		qt.Assert(t, qt.ErrorIs(err, context.Canceled))
	})
	t.Run("with the watcher", func(t *testing.T) {
		watcher := watch(w, set, wake.Policy{})
		done := make(chan error, 1)
		go func() {
			_, err := watcher.Wait(t.Context())
			done <- err
		}()
		qt.Assert(t, qt.IsNil(watcher.Close()))
		qt.Assert(t, qt.ErrorIs(<-done, os.ErrClosed))
	})
	t.Run("wrong policy", func(t *testing.T) {
		for _, p := range []wake.Policy{{Mode: 7}, {MinBytes: -1}, {Ignore: []netip.Prefix{{}}}} {
			_, err := wake.NewWatcher(set, p, w.NS)
			qt.Assert(t, qt.ErrorIs(err, wake.ErrPolicy))
		}
	})
}
