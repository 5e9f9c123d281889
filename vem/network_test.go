package vem

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/fabric"
)

func TestTheLastEndpointTakesTheNetworkAlong(t *testing.T) {
	w := newWorld(t)
	one, two := w.claim(t, "one", ""), w.claim(t, "two", "")
	qt.Assert(t, qt.IsNil(one.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(two.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(one.Detach(t.Context())))
	one.Free()
	qt.Assert(t, qt.DeepEquals(w.host.fabrics[DefaultNetwork].attached, map[string]bool{"two": true}))
	qt.Assert(t, qt.IsNil(two.Isolate(t.Context())))
	qt.Assert(t, qt.IsFalse(w.host.fabrics[DefaultNetwork].attached["two"]))
	qt.Assert(t, qt.IsNil(two.Rejoin(t.Context(), "/proc/self/ns/net")))
	qt.Assert(t, qt.IsTrue(w.host.fabrics[DefaultNetwork].attached["two"]))
	qt.Assert(t, qt.IsNil(two.Detach(t.Context())))
	qt.Assert(t, qt.HasLen(w.host.fabrics, 0))
	qt.Assert(t, qt.IsNil(two.Detach(t.Context()))) // once more: it makes the network, and takes it away
	qt.Assert(t, qt.HasLen(w.host.fabrics, 0))
	qt.Assert(t, qt.Equals(w.host.opened, 2))
}

// An app that is given up before it was attached keeps no network: nobody would remove it.
func TestClaimAloneKeepsNoNetwork(t *testing.T) {
	w := newWorld(t)
	last, never := w.claim(t, "last", ""), w.claim(t, "never", "")
	qt.Assert(t, qt.IsNil(last.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(last.Detach(t.Context())))
	never.Free()
	qt.Assert(t, qt.HasLen(w.host.fabrics, 0))
}

// What an earlier daemon left is in the network before anything is done to it.
func TestAdoptedEndpointsKeepTheNetwork(t *testing.T) {
	w := newWorld(t)
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	stopped := w.Adopt(Claim{App: "stopped", Network: DefaultNetwork, Addr4: addr("10.77.0.2")}, Absent)
	running := w.Adopt(Claim{App: "running", Network: DefaultNetwork, Addr4: addr("10.77.0.3")}, Present)
	qt.Assert(t, qt.IsNil(stopped.Detach(t.Context())))
	qt.Assert(t, qt.HasLen(w.host.fabrics, 1))
	qt.Assert(t, qt.IsNil(running.Detach(t.Context())))
	qt.Assert(t, qt.HasLen(w.host.fabrics, 0))
	qt.Assert(t, qt.Equals(w.claim(t, "new", "").Claim().Addr4, addr("10.77.0.4"))) // they have theirs until they are freed
}

// An app that joins while the last one leaves has its network.
func TestNetworkStaysWhileItIsUsed(t *testing.T) {
	w := newWorld(t)
	last, next := w.claim(t, "last", ""), w.claim(t, "next", "")
	qt.Assert(t, qt.IsNil(last.Attach(t.Context(), nil)))
	w.host.entered, w.host.goOn = make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() { done <- next.Attach(t.Context(), nil) }()
	<-w.host.entered
	qt.Check(t, qt.IsNil(last.Detach(t.Context())))
	close(w.host.goOn)
	qt.Assert(t, qt.IsNil(<-done))
	qt.Assert(t, qt.DeepEquals(w.host.fabrics[DefaultNetwork].attached, map[string]bool{"next": true}))
}

// What one network waits for is no matter to another one, or to who asks for an address.
func TestNothingWaitsForANetwork(t *testing.T) {
	w := newWorld(t)
	slow := w.claim(t, "slow", "")
	w.host.entered, w.host.goOn = make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() { done <- slow.Attach(t.Context(), nil) }()
	<-w.host.entered
	e, err := w.Claim(t.Context(), Claim{App: "quick", Network: "other"})
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(e.Isolate(t.Context())))
	w.claim(t, "third", "")
	close(w.host.goOn)
	qt.Assert(t, qt.IsNil(<-done))
}

func TestPublishedPorts(t *testing.T) {
	w := newWorld(t)
	last := func() []fabric.Publication { return w.host.published[len(w.host.published)-1] }
	one := w.claim(t, "one", "", Port{Proto: "tcp", HostPort: 81, Port: 8081}, Port{Proto: "udp", HostPort: 80, Port: 8080})
	two := w.claim(t, "two", "")
	qt.Assert(t, qt.IsNil(two.Attach(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(one.Attach(t.Context(), nil)))
	want := []fabric.Publication{
		{Proto: "udp", HostPort: 80, Addr: one.Claim().Addr4, Port: 8080},
		{Proto: "tcp", HostPort: 81, Addr: one.Claim().Addr4, Port: 8081},
	}
	qt.Assert(t, qt.IsTrue(slices.Equal(last(), want)), qt.Commentf("%v", last()))
	qt.Assert(t, qt.IsNil(two.Attach(t.Context(), nil)))
	qt.Assert(t, qt.HasLen(w.host.published, 2)) // the firewall is left alone while nothing changes

	w.host.fail = errors.New("no firewall")
	qt.Assert(t, qt.IsNil(two.AddPorts([]Port{{Proto: "tcp", HostPort: 79, Port: 8079}})))
	qt.Assert(t, qt.ErrorIs(two.Attach(t.Context(), nil), w.host.fail))
	w.host.fail = nil
	qt.Assert(t, qt.IsNil(two.Attach(t.Context(), nil)))
	qt.Assert(t, qt.HasLen(last(), 3))

	qt.Assert(t, qt.IsNil(one.Detach(t.Context())))
	qt.Assert(t, qt.HasLen(last(), 1))
	var taken *PortError
	_, err := w.Claim(t.Context(), Claim{App: "three", Network: DefaultNetwork, Ports: one.Claim().Ports}) // an app that has ended keeps its ports
	qt.Assert(t, qt.ErrorAs(err, &taken))
	one.Free()
	_, err = w.Claim(t.Context(), Claim{App: "three", Network: DefaultNetwork, Ports: one.Claim().Ports})
	qt.Assert(t, qt.IsNil(err))
}

// A network that could not be made is made the next time.
func TestNetworkThatCantBeMade(t *testing.T) {
	w := newWorld(t)
	e := w.claim(t, "web", "")
	w.host.fail = errors.New("no memory")
	qt.Assert(t, qt.ErrorIs(e.Attach(t.Context(), nil), w.host.fail))
	w.host.fail = nil
	qt.Assert(t, qt.IsNil(e.Attach(t.Context(), nil)))
}

// An address inside that is the one outside is none to a fabric.
func TestFabricEndpoint(t *testing.T) {
	a, b := netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.3")
	qt.Check(t, qt.IsFalse((&Claim{Addr4: a, Inside4: a}).endpoint().Inside4.IsValid()))
	qt.Check(t, qt.Equals((&Claim{Addr4: a, Inside4: b}).endpoint().Inside4, b))
}
