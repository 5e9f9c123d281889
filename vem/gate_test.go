package vem

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
)

// fakeGate says what a test has it say.
type fakeGate struct {
	kept   map[netip.Addr]string
	refuse error
	shut   error
	asked  []string
}

func (f *fakeGate) Kept(string) map[netip.Addr]string { return f.kept }
func (f *fakeGate) Admit(Claim) error                 { return f.shut }

func (f *fakeGate) Claim(_ context.Context, c Claim, asked bool) error {
	if asked {
		f.asked = append(f.asked, c.App)
	}
	return f.refuse
}

// An endpoint that is not admitted is in no network, and is there when it is admitted.
func TestAdmission(t *testing.T) {
	w, g := newWorld(t), &fakeGate{}
	w.SetGate(g)
	other := w.claim(t, "other", "")
	qt.Assert(t, qt.IsNil(other.Attach(t.Context(), nil)))
	e := w.claim(t, "web", "10.77.0.9")
	qt.Check(t, qt.DeepEquals(g.asked, []string{"web"}))
	qt.Check(t, qt.HasLen(w.Wanted(), 2))
	qt.Check(t, qt.HasLen(w.Present(), 1))
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Check(t, qt.IsTrue(e.Present()))

	g.shut = errors.New("taken over")
	qt.Check(t, qt.ErrorIs(e.Admitted(), g.shut))
	qt.Check(t, qt.ErrorIs(e.Rejoin(t.Context(), "/nowhere"), g.shut))
	qt.Check(t, qt.IsFalse(e.Present()))
	qt.Check(t, qt.ErrorIs(e.Attach(t.Context(), nil), g.shut))
	qt.Check(t, qt.HasLen(w.Wanted(), 2)) // its app is there
	g.shut = nil
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(e.Detach(t.Context())))
	qt.Check(t, qt.HasLen(w.Wanted(), 1))
	qt.Check(t, qt.IsNil((&Endpoint{}).Admitted()))

	qt.Check(t, qt.HasLen(w.Present(), 1))
	later := w.Adopt(Claim{App: "later", Network: DefaultNetwork, Addr4: netip.MustParseAddr("10.77.0.10")}, Present)
	qt.Check(t, qt.HasLen(w.Wanted(), 2))
	g.shut = errors.New("not known yet")
	qt.Check(t, qt.ErrorIs(later.Attach(t.Context(), nil), g.shut))
	qt.Check(t, qt.HasLen(w.Present(), 1))
	qt.Check(t, qt.HasLen(w.Wanted(), 2))
	g.shut = nil
	for _, one := range []*Endpoint{later, other} {
		qt.Assert(t, qt.IsNil(one.Detach(t.Context())))
	}
}

// An endpoint that is kept is wanted until it is freed, in its network or not.
func TestKeptEndpoints(t *testing.T) {
	w := newWorld(t)
	e := w.claim(t, "moves", "")
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(e.Detach(t.Context())))
	qt.Check(t, qt.HasLen(w.Wanted(), 0))
	e.Keep()
	qt.Check(t, qt.HasLen(w.Wanted(), 1))
	qt.Assert(t, qt.IsNil(e.Detach(t.Context())))
	came := w.Adopt(Claim{App: "came", Network: DefaultNetwork, Addr4: netip.MustParseAddr("10.77.0.10")}, Kept)
	qt.Assert(t, qt.IsNil(came.Detach(t.Context())))
	qt.Check(t, qt.HasLen(w.Wanted(), 2))
	qt.Check(t, qt.HasLen(w.Present(), 0))
	e.Free()
	came.Free()
	qt.Check(t, qt.HasLen(w.Wanted(), 0))
}

// An address that is kept is that of the app which it is kept for.
func TestKeptAddresses(t *testing.T) {
	w, g := newWorld(t), &fakeGate{kept: map[netip.Addr]string{netip.MustParseAddr("10.77.0.2"): "", netip.MustParseAddr("10.77.0.9"): "cache"}}
	w.SetGate(g)
	qt.Check(t, qt.Equals(w.claim(t, "web", "").Claim().Addr4.String(), "10.77.0.3"))
	_, err := w.Claim(t.Context(), Claim{App: "web", Network: DefaultNetwork, Addr4: netip.MustParseAddr("10.77.0.9")})
	taken, ok := errors.AsType[*TakenError](err)
	qt.Check(t, qt.IsTrue(ok && taken.App == "cache"))
	qt.Check(t, qt.Equals(w.claim(t, "cache", "").Claim().Addr4.String(), "10.77.0.9"))
	qt.Check(t, qt.Equals(w.claim(t, "cache", "").Claim().Addr4.String(), "10.77.0.4"))
	qt.Check(t, qt.Equals(w.claim(t, "asks", "10.77.0.2").Claim().Addr4.String(), "10.77.0.2")) // the gate says whether it may

	g.refuse = errors.New("the directory says no")
	_, err = w.Claim(t.Context(), Claim{App: "db", Network: DefaultNetwork})
	qt.Check(t, qt.ErrorIs(err, g.refuse))
	g.refuse = nil
	qt.Check(t, qt.Equals(w.claim(t, "db", "").Claim().Addr4.String(), "10.77.0.5")) // nothing is left of the other
}
