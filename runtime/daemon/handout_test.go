package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
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
	a := &App{turn: make(chan struct{}, 1), dir: filepath.Join(t.TempDir(), "gone"), aside: true, rec: app.Record{Identity: app.Identity{Name: "t-1"}}}
	d.calls.handedOut(a)
	qt.Assert(t, qt.IsFalse(d.recordHandedOut())) // it can't be
	qt.Assert(t, qt.IsFalse(d.recordHandedOut())) // nor is it given up
	a.gone = true
	qt.Assert(t, qt.IsTrue(d.recordHandedOut()))
	qt.Assert(t, qt.IsTrue(d.recordHandedOut()))
}

// The first step of a clone whose record is aside records for good that it was handed
// out: nobody else does then. Only that makes a spare file.
func TestStepOfHandedOut(t *testing.T) {
	for name, test := range map[string]struct {
		to    app.Status
		aside bool
		lasts bool
	}{
		"aside":         {app.Hibernating, true, true},
		"not aside":     {app.Hibernating, false, false},
		"to be removed": {app.Removing, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &App{dir: t.TempDir(), aside: test.aside, rec: app.Record{Identity: app.Identity{Name: "t-1"}, State: app.State{Status: app.Running}}}
			qt.Assert(t, qt.IsNil(a.step(test.to, journal.UntilReboot, nil)))
			qt.Assert(t, qt.IsFalse(a.aside))
			_, err := os.Lstat(filepath.Join(a.dir, "spare"))
			qt.Assert(t, qt.Equals(err == nil, test.lasts), qt.Commentf("%v", err))
		})
	}
}
