package server

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/vem"
)

func TestLostError(t *testing.T) {
	err := &engine.LostError{App: "cache", Reason: vem.LostByEnd}
	qt.Assert(t, qt.ErrorMatches(err, "the sockets of app cache are lost: snapctld and its holder both ended meanwhile: .*"))
	qt.Assert(t, qt.Equals(hint(err), "wake it by command: snapctl wake cache"))
	a := &engine.App{App: app.New(t.TempDir(), app.Record{})}
	a.Note(err)
	qt.Assert(t, qt.Equals(hint(a.Noted()), hint(err)))
}
