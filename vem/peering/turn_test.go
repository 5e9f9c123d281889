package peering

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// A newer release offers kinds of channels that this one does not know: it takes one that it knows,
// and refuses what it can't have.
func TestUnknownKind(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	pigeon := message.Offer{Module: "pigeon", MTU: 1400, Underlay: []netip.AddrPort{netip.AddrPortFrom(a.underlay, 0)}}
	direct := pigeon
	direct.Module = "direct"
	ask := func(offers ...message.Offer) (message.Channel, error) {
		return a.Connect(t.Context(), "b", message.ConnectRequest{
			Network: "default", Source: message.Endpoint{Address: one, Epoch: 1}, Wanted: message.Endpoint{Address: two, Epoch: 1},
			Offers: offers, Generation: 1,
		})
	}
	_, err := ask(pigeon)
	qt.Check(t, qt.ErrorMatches(err, "(?s).*no module.*in common.*"))
	c, err := ask(pigeon, direct)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(c.Module, "direct"))

	c.Module, c.Generation = "pigeon", 9
	c.Local, c.Remote = c.Remote, c.Local
	_, err = b.Peering.Reconcile(t.Context(), message.Caller{Host: "a"}, message.Table{Network: "default", Channel: &c})
	qt.Check(t, qt.ErrorMatches(err, ".*makes none of kind \"pigeon\""))
	qt.Check(t, qt.Equals(b.reaches(one), "a")) // as it was
}

// A host that has nothing to offer says so, and asks nobody.
func TestNoOffer(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.Reoffer(t.Context(), "b"))) // no channel, nothing to change
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Assert(t, qt.IsNil(a.Reoffer(t.Context(), "b"))) // it is the best one
	a.net.offers = func(string) []message.Offer { return nil }
	qt.Check(t, qt.ErrorIs(a.Reoffer(t.Context(), "b"), errNoOffer))
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	three := b.has("10.77.0.67", 1)
	qt.Check(t, qt.ErrorIs(a.send(t.Context(), one, three), errNoOffer))
}
