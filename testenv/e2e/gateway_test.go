package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/traffic"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// everyPort publishes the ports of a member of the traffic.
func everyPort() []*api.Publication {
	return []*api.Publication{
		{Protocol: "tcp", HostPort: traffic.Port, Port: traffic.Port},
		{Protocol: "udp", HostPort: traffic.Port, Port: traffic.Port},
		{Protocol: "tcp", HostPort: traffic.ControlPort, Port: traffic.ControlPort},
	}
}

// others have traffic with the apps of an installation of alpha, beta and gamma, though they are no
// apps: host beta itself, and a stranger that knows nothing of snapctl, on a network that beta and
// gamma are on too. The stranger reaches the app on alpha by its published port at gamma, and the
// app on gamma by its virtual address, which it routes to beta.
func (hs *hosts) others() (*office, []traffic.Member, []traffic.Pair) {
	hs.t.Helper()
	ctx := hs.t.Context()
	beta, gamma := hs.worlds[1], hs.worlds[2]
	self, stop, err := traffic.Stranger(ctx, beta.Host, hs.eth0[1].Addr4())
	qt.Assert(hs.t, qt.IsNil(err))
	hs.t.Cleanup(func() { qt.Check(hs.t, qt.IsNil(stop())) })
	self.Name = "host beta"

	o, stranger := hs.office()
	// At beta a program has the port, which is said there.
	hs.forwards(gamma, func(reason string) bool { return reason == "" })
	hs.forwards(beta, func(reason string) bool { return strings.HasPrefix(reason, "a program has the port") })
	published := traffic.Member{Name: "port of gamma", Addr: o.gamma.Addr4(), Via: o.stranger}
	return o, []traffic.Member{self, stranger, published}, []traffic.Pair{
		{From: self.Name, To: "alpha", Connections: 4, Flows: 1},
		{From: self.Name, To: "gamma", Connections: 4, Flows: 1},
		{From: stranger.Name, To: published.Name, Connections: 4, Flows: 1},
		{From: stranger.Name, To: "gamma", Connections: 4, Flows: 1},
	}
}

// office makes beta a gateway, and a machine behind it that routes the virtual network there.
func (hs *hosts) office() (*office, traffic.Member) {
	hs.t.Helper()
	beta, gamma := hs.worlds[1], hs.worlds[2]
	hs.ok(beta, "host", "gateway", "on")
	network := hs.network("office", "203.0.113.0/24")
	atBeta, atGamma := hs.attach(network, beta.Host), hs.attach(network, gamma.Host)
	hs.t.Cleanup(func() { qt.Check(hs.t, qt.IsNil(errors.Join(atBeta.Remove(), atGamma.Remove()))) })
	stranger := hs.stranger("machine", network)
	h, ok := stranger.Via.(*host.Host)
	qt.Assert(hs.t, qt.IsTrue(ok))
	o := &office{hs: hs, stranger: h, beta: atBeta, gamma: atGamma}
	o.by(atBeta)
	return o, stranger
}

// office is a network with a machine that knows nothing of snapctl, and two hosts that do.
type office struct {
	hs          *hosts
	stranger    *host.Host
	beta, gamma *underlay.Port
}

// by has the stranger route the virtual network to a host.
func (o *office) by(p *underlay.Port) {
	o.hs.t.Helper()
	r, err := host.Run(o.stranger.Command(o.hs.t.Context(), "ip", "route", "replace", "10.77.0.0/16", "via", p.Addr4().String()))
	qt.Assert(o.hs.t, qt.IsNil(err))
	qt.Assert(o.hs.t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
}

// oneFails has two hosts be gateways, of which one is none any more: through the other one the
// stranger opens new connections to an app at once, and what it has open by the published port there
// goes on.
func (o *office) oneFails(app netip.Addr) {
	t := o.hs.t
	t.Helper()
	beta, gamma := o.hs.worlds[1], o.hs.worlds[2]
	shown := o.hs.ok(gamma, "host", "gateway", "on").Stdout
	qt.Check(t, qt.StringContains(shown, "seen by apps as this host"))
	dial := func(to netip.AddrPort) net.Conn {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := o.stranger.DialContext(ctx, "tcp", to.String())
		qt.Assert(t, qt.IsNil(err))
		return c
	}
	to := netip.AddrPortFrom(app, traffic.Port)
	before, published := dial(to), dial(netip.AddrPortFrom(o.gamma.Addr4(), traffic.Port))
	o.hs.ok(beta, "host", "gateway", "off") // and with it what the host forwards
	o.by(o.gamma)
	after := dial(to)
	// Nothing has ended the other one: nobody answers what would come by it.
	qt.Assert(t, qt.IsNil(published.SetReadDeadline(time.Now().Add(10*time.Millisecond))))
	_, err := published.Read(make([]byte, 1))
	qt.Check(t, qt.ErrorIs(err, os.ErrDeadlineExceeded))
	for _, c := range []net.Conn{before, published, after} {
		qt.Check(t, qt.IsNil(c.Close()))
	}
	o.hs.ok(gamma, "host", "gateway", "off")
}

// forwards waits until a host says of all ports of other hosts' apps what is wanted.
func (hs *hosts) forwards(w *World, want func(reason string) bool) {
	hs.t.Helper()
	ctx, cancel := context.WithTimeout(hs.t.Context(), time.Minute)
	defer cancel()
	for {
		var shown struct {
			Ports []struct {
				Protocol, Reason string
			}
		}
		r := hs.ok(w, "host", "gateway", "show", "-o", "json")
		qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &shown)))
		good := len(shown.Ports) == len(everyPort())
		for _, p := range shown.Ports {
			good = good && want(p.Reason)
		}
		if good {
			return
		}
		select {
		case <-ctx.Done():
			hs.t.Fatalf("%s forwards: %s", w.Name(), r.Stdout)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
