package vet_test

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// TestMain makes the test binary play the app too.
func TestMain(m *testing.M) { os.Exit(sockets.Main(m)) }

func collected(w *sockets.World, a *sockets.App, opt collect.Options) *hold.Set {
	w.T.Helper()
	opt.NS = w.NS
	set, err := collect.App(w.T.Context(), []int{a.PID}, opt)
	qt.Assert(w.T, qt.IsNil(err))
	w.T.Cleanup(func() { qt.Check(w.T, qt.IsNil(set.Close())) })
	return set
}
