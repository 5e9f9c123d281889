package hold_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
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

// byValue lets cmp look at addresses.
func byValue() cmp.Option { return cmpopts.EquateComparable(netip.AddrPort{}) }
