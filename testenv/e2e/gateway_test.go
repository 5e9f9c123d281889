package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/traffic"
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
func (hs *hosts) others() ([]traffic.Member, []traffic.Pair) {
	hs.t.Helper()
	ctx := hs.t.Context()
	beta, gamma := hs.worlds[1], hs.worlds[2]
	self, stop, err := traffic.Stranger(ctx, beta.Host, hs.eth0[1].Addr4())
	qt.Assert(hs.t, qt.IsNil(err))
	hs.t.Cleanup(func() { qt.Check(hs.t, qt.IsNil(stop())) })
	self.Name = "host beta"

	hs.ok(beta, "host", "gateway", "on")
	office := hs.network("office", "203.0.113.0/24")
	atBeta, atGamma := hs.attach(office, beta.Host), hs.attach(office, gamma.Host)
	hs.t.Cleanup(func() { qt.Check(hs.t, qt.IsNil(errors.Join(atBeta.Remove(), atGamma.Remove()))) })
	stranger := hs.stranger("stranger", office)
	h, ok := stranger.Via.(*host.Host)
	qt.Assert(hs.t, qt.IsTrue(ok))
	r, err := host.Run(h.Command(ctx, "ip", "route", "add", "10.77.0.0/16", "via", atBeta.Addr4().String()))
	qt.Assert(hs.t, qt.IsNil(err))
	qt.Assert(hs.t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))

	// At beta a program has the port, which is said there.
	hs.forwards(gamma, func(reason string) bool { return reason == "" })
	hs.forwards(beta, func(reason string) bool { return strings.HasPrefix(reason, "a program has the port") })
	published := traffic.Member{Name: "port of gamma", Addr: atGamma.Addr4(), Via: h}
	return []traffic.Member{self, stranger, published}, []traffic.Pair{
		{From: self.Name, To: "alpha", Connections: 4, Flows: 1},
		{From: self.Name, To: "gamma", Connections: 4, Flows: 1},
		{From: stranger.Name, To: published.Name, Connections: 4, Flows: 1},
		{From: stranger.Name, To: "gamma", Connections: 4, Flows: 1},
	}
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
