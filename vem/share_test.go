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
	"github.com/snapctl/snapctl/vem/fabric"
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

func (f *fakeShare) Here(a netip.Addr)    { f.note("here " + a.String()) }
func (f *fakeShare) Told(context.Context) { f.note("told") }
func (f *fakeShare) Left(a netip.Addr)    { f.note("left " + a.String()) }

func (f *fakeShare) SetSelf(a4, a6 netip.Addr) { f.note(fmt.Sprintf("self %s %s", a4, a6)) }

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
	_, ok := w.Find(DefaultNetwork, e.Claim().Addr4)
	qt.Check(t, qt.IsFalse(ok)) // it is not there yet
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Check(t, qt.DeepEquals(share.said(), []string{"here 10.77.0.10", "here fd77:736e:6170::a", "told"}))
	for _, a := range []netip.Addr{e.Claim().Addr4, e.Claim().Addr6} {
		c, ok := w.Find(DefaultNetwork, a)
		qt.Check(t, qt.IsTrue(ok))
		qt.Check(t, qt.Equals(c.App, "late"))
		_, ok = w.Find("other", a)
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

// New endpoints get addresses of this host's ranges, unless they ask for another one.
func TestRanges(t *testing.T) {
	w := newWorld(t)
	w.SetRanges(DefaultNetwork, []netip.Prefix{netip.MustParsePrefix("10.77.1.0/30"), netip.MustParsePrefix("10.77.2.0/30")})
	var got []string
	for i := range 8 {
		got = append(got, w.claim(t, fmt.Sprint(i), "").Claim().Addr4.String())
	}
	qt.Check(t, qt.DeepEquals(got, []string{"10.77.1.0", "10.77.1.1", "10.77.1.2", "10.77.1.3", "10.77.2.0", "10.77.2.1", "10.77.2.2", "10.77.2.3"}))
	_, err := w.Claim(t.Context(), Claim{App: "more", Network: DefaultNetwork})
	qt.Check(t, qt.ErrorIs(err, address.ErrExhausted))
	qt.Check(t, qt.Equals(w.claim(t, "asks", "10.77.9.9").Claim().Addr4.String(), "10.77.9.9"))
	w.SetRanges(DefaultNetwork, nil)
	qt.Check(t, qt.Equals(w.claim(t, "all", "").Claim().Addr4.String(), "10.77.0.2"))
	qt.Check(t, qt.HasLen(w.Present(), 0)) // none is attached
}

// The host itself is in a network that has no app, and stays there.
func TestReside(t *testing.T) {
	w := newWorld(t)
	share := &fakeShare{}
	qt.Assert(t, qt.IsNil(w.SetSharing(t.Context(), share.open)))
	w.SetRanges(DefaultNetwork, []netip.Prefix{netip.MustParsePrefix("10.77.1.0/30")})
	w.host.fail = errors.New("no BPF")
	_, err := w.Reside(t.Context(), DefaultNetwork, "host:alpha:default", netip.Addr{})
	qt.Assert(t, qt.ErrorIs(err, w.host.fail))
	qt.Check(t, qt.HasLen(w.Owners(DefaultNetwork), 0))
	w.host.fail = nil
	for range 2 {
		a, err := w.Reside(t.Context(), DefaultNetwork, "host:alpha:default", netip.Addr{})
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(a.String(), "10.77.1.0"))
	}
	want := []string{"open default 10.77.0.0/16", "self 10.77.1.0 fd77:736e:6170::100", "here 10.77.1.0", "here fd77:736e:6170::100"}
	qt.Check(t, qt.DeepEquals(share.said(), want))
	qt.Check(t, qt.Equals(w.host.self[0].String(), "10.77.1.0"))
	c, ok := w.Find(DefaultNetwork, w.host.self[1])
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals(c.App, "host:alpha:default"))

	e := w.claim(t, "web", "")
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(e.Detach(t.Context())))
	qt.Check(t, qt.HasLen(w.host.fabrics, 1))
	qt.Assert(t, qt.IsNil(w.SetSharing(t.Context(), nil)))
	share.said()
	qt.Assert(t, qt.IsNil(w.SetSharing(t.Context(), share.open)))
	qt.Check(t, qt.DeepEquals(share.said(), want[:2]))
}

// Ports of other hosts' apps lead to them, unless an app of this host has them, and the network is
// told of what else is forwarded.
func TestFar(t *testing.T) {
	w := newWorld(t)
	far := []fabric.Publication{
		{Proto: "tcp", HostPort: 80, Addr: netip.MustParseAddr("10.77.2.2"), Port: 8080}, {Proto: "udp", HostPort: 53, Addr: netip.MustParseAddr("10.77.2.2"), Port: 53},
	}
	qt.Assert(t, qt.IsNil(w.SetFar(t.Context(), DefaultNetwork, far)))
	qt.Check(t, qt.HasLen(w.host.published, 0)) // this host is not there
	_, err := w.Reside(t.Context(), DefaultNetwork, "host:alpha:default", netip.Addr{})
	qt.Assert(t, qt.IsNil(err))
	for range 2 {
		qt.Assert(t, qt.IsNil(w.SetFar(t.Context(), DefaultNetwork, far)))
	}
	qt.Assert(t, qt.HasLen(w.host.published, 1))
	got := w.host.published[0]
	qt.Assert(t, qt.HasLen(got, 2))
	qt.Check(t, qt.IsTrue(got[0].Far && got[1].Far))

	e := w.claim(t, "web", "", Port{Proto: "tcp", HostPort: 80, Port: 80})
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	got = w.host.published[len(w.host.published)-1]
	qt.Assert(t, qt.HasLen(got, 3)) // a host of an installation forwards IPv6, too
	qt.Check(t, qt.IsTrue(got[0].Far))
	qt.Check(t, qt.Equals(got[1], fabric.Publication{Proto: "tcp", HostPort: 80, Addr: e.Claim().Addr4, Port: 80}))
	qt.Check(t, qt.Equals(got[2], fabric.Publication{Proto: "tcp", HostPort: 80, Addr: e.Claim().Addr6, Port: 80}))
	far[1].Addr = netip.MustParseAddr("fd77:736e:6170::202")
	qt.Assert(t, qt.IsNil(w.SetFar(t.Context(), DefaultNetwork, far)))
	got = w.host.published[len(w.host.published)-1]
	qt.Assert(t, qt.HasLen(got, 3))
	qt.Check(t, qt.IsTrue(got[0].Far && got[0].Addr == far[1].Addr))

	w.SetGateway(fabric.Gateway{On: true})
	qt.Assert(t, qt.IsNil(w.SetFar(t.Context(), DefaultNetwork, nil)))
	qt.Check(t, qt.IsTrue(w.host.gateway.On))
	qt.Assert(t, qt.HasLen(w.host.published[len(w.host.published)-1], 2))
	qt.Assert(t, qt.IsNil(w.MoveOut(t.Context(), DefaultNetwork)))
	qt.Check(t, qt.HasLen(w.host.published[len(w.host.published)-1], 2)) // a gateway does so by itself
	w.SetGateway(fabric.Gateway{})
	_, err = w.Reside(t.Context(), DefaultNetwork, "host:alpha:default", netip.Addr{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(w.MoveOut(t.Context(), DefaultNetwork)))
	qt.Check(t, qt.HasLen(w.host.published[len(w.host.published)-1], 1)) // one that is alone does not
}

// An app that moves away is in no network, and what it has there stays; one that moves here is connected before it
// is in the network.
func TestMovingEndpoints(t *testing.T) {
	w := newWorld(t)
	share := &fakeShare{}
	qt.Assert(t, qt.IsNil(w.SetSharing(t.Context(), share.open)))
	e := w.claim(t, "cache", "10.77.0.9")
	for range 2 {
		qt.Assert(t, qt.IsNil(e.Connect(t.Context(), nil)))
		qt.Check(t, qt.IsFalse(w.host.fabrics[DefaultNetwork].attached["cache"]))
		qt.Check(t, qt.HasLen(w.Present(), 0))
		qt.Check(t, qt.HasLen(w.Wanted(), 1))
	}
	qt.Check(t, qt.DeepEquals(share.said(), []string{"open default 10.77.0.0/16"}))
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Check(t, qt.IsTrue(w.host.fabrics[DefaultNetwork].attached["cache"]))
	qt.Check(t, qt.DeepEquals(share.said(), []string{"here 10.77.0.9", "here fd77:736e:6170::9", "told"}))
	for range 2 {
		qt.Assert(t, qt.IsNil(e.Withdraw(t.Context())))
		qt.Check(t, qt.HasLen(w.Present(), 0))
		qt.Check(t, qt.DeepEquals(share.said(), []string{"left 10.77.0.9", "left fd77:736e:6170::9"}))
	}
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(e.Withdraw(t.Context())))
	share.said()
	qt.Assert(t, qt.IsNil(e.Shut(t.Context()))) // the last one takes the network along
	qt.Check(t, qt.DeepEquals(share.said(), []string{"left 10.77.0.9", "left fd77:736e:6170::9", "close"}))
	qt.Check(t, qt.HasLen(w.host.fabrics, 0))
}

// The ports of an app that moves lead to where it is: those of one that has left wait with all else that is sent
// to it, and those of one that comes lead to the other host until it is here.
func TestPortsOfMovingEndpoints(t *testing.T) {
	w := newWorld(t)
	_, err := w.Reside(t.Context(), DefaultNetwork, "host:alpha:default", netip.Addr{})
	qt.Assert(t, qt.IsNil(err))
	e := w.claim(t, "cache", "10.77.0.9", Port{Proto: "tcp", HostPort: 80, Port: 80})
	both := []fabric.Publication{
		{Proto: "tcp", HostPort: 80, Addr: e.Claim().Addr4, Port: 80},
		{Proto: "tcp", HostPort: 80, Addr: e.Claim().Addr6, Port: 80},
	}
	leads := func(far bool) {
		t.Helper()
		want := slices.Clone(both)
		for i := range want {
			want[i].Far = far
		}
		last := w.host.published[len(w.host.published)-1]
		qt.Assert(t, qt.IsTrue(slices.Equal(last, want)), qt.Commentf("%v", last))
	}
	qt.Assert(t, qt.IsNil(e.Connect(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(w.SetFar(t.Context(), DefaultNetwork, both)))
	leads(true)
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
	leads(false)
	for range 2 {
		qt.Assert(t, qt.IsNil(e.Withdraw(t.Context())))
		leads(false)
	}
	qt.Assert(t, qt.IsNil(e.Detach(t.Context())))
	qt.Check(t, qt.HasLen(w.host.published[len(w.host.published)-1], 0))
}
