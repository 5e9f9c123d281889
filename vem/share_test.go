package vem

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
)

// fakeShare notes what it is told.
type fakeShare struct {
	mu   sync.Mutex
	log  []string
	fail error // of opening
}

func (f *fakeShare) note(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, text)
}

// said returns what was told since it was asked last.
func (f *fakeShare) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

func (f *fakeShare) open(_ context.Context, network string, _ Fabric, s address.Space) (Share, error) {
	f.note(fmt.Sprintf("open %s %s", network, s.Prefix4))
	if f.fail != nil {
		return nil, f.fail
	}
	return f, nil
}

func (f *fakeShare) Here(a netip.Addr) { f.note("here " + a.String()) }
func (f *fakeShare) Left(a netip.Addr) { f.note("left " + a.String()) }

func (f *fakeShare) Close(context.Context) error {
	f.note("close")
	return nil
}

func (f *fakeShare) Leave() error {
	f.note("leave")
	return nil
}

func TestSharing(t *testing.T) {
	w := newWorld(t)
	share := &fakeShare{}
	early := w.claim(t, "early", "10.77.0.9")
	qt.Assert(t, qt.IsNil(early.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(w.SetSharing(t.Context(), share.open)))
	qt.Check(t, qt.DeepEquals(share.said(), []string{"open default 10.77.0.0/16"}))
	e := w.claim(t, "late", "10.77.0.10")
	_, ok := w.Epoch(DefaultNetwork, e.Claim().Addr4)
	qt.Check(t, qt.IsFalse(ok)) // it is not there yet
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Check(t, qt.DeepEquals(share.said(), []string{"here 10.77.0.10", "here fd77:736e:6170::a"}))
	for _, a := range []netip.Addr{e.Claim().Addr4, e.Claim().Addr6} {
		epoch, ok := w.Epoch(DefaultNetwork, a)
		qt.Check(t, qt.IsTrue(ok))
		qt.Check(t, qt.Equals(epoch, 1))
		_, ok = w.Epoch("other", a)
		qt.Check(t, qt.IsFalse(ok))
	}
	qt.Assert(t, qt.IsNil(e.Detach(t.Context())))
	qt.Check(t, qt.DeepEquals(share.said(), []string{"left 10.77.0.10", "left fd77:736e:6170::a"}))

	qt.Assert(t, qt.IsNil(w.SetSharing(t.Context(), nil)))
	qt.Check(t, qt.DeepEquals(share.said(), []string{"close"}))
	qt.Assert(t, qt.IsNil(w.SetSharing(t.Context(), share.open)))
	qt.Assert(t, qt.IsNil(early.Detach(t.Context()))) // the last one
	said := share.said()
	qt.Check(t, qt.Equals(said[len(said)-1], "close"))

	// What can't be shared is there for this host's apps.
	share.fail = errors.New("no BPF")
	qt.Assert(t, qt.IsNil(early.Attach(t.Context(), nil)))
	qt.Check(t, qt.DeepEquals(share.said(), []string{"open default 10.77.0.0/16"}))
	qt.Assert(t, qt.IsNil(early.Detach(t.Context())))
	qt.Check(t, qt.HasLen(share.said(), 0))

	share.fail = nil
	qt.Assert(t, qt.IsNil(early.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(w.Close()))
	qt.Check(t, qt.IsTrue(slices.Contains(share.said(), "leave")))
}
