package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
)

// Pools are filled when nobody asks for clones, or somebody has for too long.
func TestCalm(t *testing.T) {
	var c calls
	qt.Assert(t, qt.Equals(c.rest(), 0))
	qt.Assert(t, qt.IsTrue(c.calm(t.Context())))

	one, two := c.begin(), c.begin()
	one()
	qt.Assert(t, qt.Equals(c.rest(), callPause))
	two()
	qt.Assert(t, qt.IsTrue(c.rest() > 0))
	qt.Assert(t, qt.IsTrue(c.calm(t.Context())))
	qt.Assert(t, qt.Equals(c.rest(), 0))

	c.begin() // it never ends
	qt.Assert(t, qt.IsTrue(c.calm(t.Context())))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	qt.Assert(t, qt.IsFalse(c.calm(ctx)))
}

// What is to be recorded for good may have been removed meanwhile, on a full disk
// without a record of that.
func TestRecordHandedOut(t *testing.T) {
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	a := &App{App: app.New(filepath.Join(t.TempDir(), "gone"), app.Record{Identity: app.Identity{Name: "t-1"}, State: app.State{Status: app.Restoring}})}
	qt.Assert(t, qt.IsNil(a.RecordAside(t.TempDir())))
	d.calls.handedOut(a)
	qt.Assert(t, qt.IsFalse(d.recordHandedOut())) // it can't be
	qt.Assert(t, qt.IsFalse(d.recordHandedOut())) // nor is it given up
	d.apps.Remove(a)
	qt.Assert(t, qt.IsTrue(d.recordHandedOut()))
	qt.Assert(t, qt.IsTrue(d.recordHandedOut()))
}
