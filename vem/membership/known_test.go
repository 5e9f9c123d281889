package membership

import (
	"context"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

// What was seen of the directory is on the disk also if the daemon is killed.
func TestKnownOfAKilledDaemon(t *testing.T) {
	a := newWorld().host(t, "a")
	qt.Assert(t, qt.IsNil(a.rememberInTurn(t.Context()))) // it is in no installation
	a.init()
	d, err := a.Directory(t.Context())
	qt.Assert(t, qt.IsNil(err))
	_, err = a.Update(t.Context(), func(h *directory.Host) { h.Release = "1.1" })
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(a.rememberInTurn(t.Context())))
	r, err := a.load()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(r.Known, d.Known()))

	// Nothing is written that is not news.
	before, err := os.Stat(a.recordFile())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(a.rememberInTurn(t.Context())))
	after, err := os.Stat(a.recordFile())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(os.SameFile(before, after)))

	// The next daemon refuses a directory that has less.
	a.store = newWorld().directory.Open()
	a.restart()
	_, err = a.Directory(t.Context())
	var lost *directory.LostError
	qt.Assert(t, qt.ErrorAs(err, &lost))
	qt.Check(t, qt.Equals(lost.Seen, r.Known))

	over, cancel := context.WithCancel(t.Context())
	cancel()
	a.KeepKnown(over)
	a.turn <- struct{}{}
	qt.Check(t, qt.ErrorIs(a.rememberInTurn(over), context.Canceled))
}
