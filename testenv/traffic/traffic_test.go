package traffic_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
	"github.com/snapctl/snapctl/testenv/underlay"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// strangers makes hosts on one network with a member on each.
func strangers(t *testing.T, names ...string) (*underlay.Underlay, []*underlay.Port, []traffic.Member, []func() error) {
	t.Helper()
	var hosts []*host.Host
	for _, name := range names {
		hosts = append(hosts, host.New(t, host.Config{Name: name}))
	}
	leak.Check(t, hosts...)
	u := underlay.New(t)
	lan, err := u.Network(underlay.NetworkConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	qt.Assert(t, qt.IsNil(err))
	var ports []*underlay.Port
	var members []traffic.Member
	var stops []func() error
	for _, h := range hosts {
		p, err := lan.Attach(t.Context(), h, underlay.PortConfig{})
		qt.Assert(t, qt.IsNil(err))
		m, stop, err := traffic.Stranger(t.Context(), h, p.Addr4())
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { _ = stop() })
		ports, members, stops = append(ports, p), append(members, m), append(stops, stop)
	}
	return u, ports, members, stops
}

// soon is longer than anything here takes.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var brisk = peer.Pattern{MaxChunk: 1024, MaxPause: 20 * time.Millisecond}

func TestMesh(t *testing.T) {
	u, _, members, _ := strangers(t, "alpha", "beta", "gamma")
	ctx := soon(t)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, 5, 1), Pattern: brisk})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))

	qt.Assert(t, qt.IsNil(mesh.Pause(ctx)))
	qt.Assert(t, qt.IsNil(u.Partition(underlay.Group{namedHost(members[0])}, underlay.Group{namedHost(members[1]), namedHost(members[2])})))
	qt.Assert(t, qt.IsNil(mesh.Resume(ctx)))
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	qt.Check(t, qt.ErrorMatches(mesh.Progress(short), "(?s)wait for progress: .*alpha to beta: nothing has come on the connection from .*"))
	qt.Assert(t, qt.IsNil(u.Heal(ctx)))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))

	qt.Assert(t, qt.IsNil(mesh.Reconnect(ctx)))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	report, err := mesh.Stop(ctx)
	qt.Assert(t, qt.IsNil(err))
	t.Log(report)
	qt.Check(t, qt.IsNil(report.Err()))
	sum := report.Total()
	qt.Check(t, qt.Equals(sum.Connections, 2*6*5))
	qt.Check(t, qt.Equals(sum.Flows, 2*6))
	qt.Check(t, qt.Equals(sum.Datagrams, sum.Answered+sum.Lost))
	qt.Check(t, qt.Equals(sum.Duplicated, 0))
	pauses := report.Pauses()
	qt.Check(t, qt.HasLen(pauses, 60))
	qt.Check(t, qt.IsTrue(pauses[0].Longest >= 300*time.Millisecond)) // the partition
}

// TestHundreds runs as many connections as the tests of many hosts do.
func TestHundreds(t *testing.T) {
	_, _, members, _ := strangers(t, "alpha", "beta", "gamma", "delta")
	ctx := soon(t)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, 17, 2)})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	report, err := mesh.Stop(ctx)
	qt.Assert(t, qt.IsNil(err))
	t.Log(report)
	qt.Check(t, qt.IsNil(report.Err()))
	qt.Check(t, qt.HasLen(report.Pauses(), 204))
	qt.Check(t, qt.Equals(report.Total().Lost, 0))
}

func namedHost(m traffic.Member) *host.Host { return m.Via.(*host.Host) }

// TestLoss counts datagrams that do not come, and names them; streams survive.
func TestLoss(t *testing.T) {
	_, ports, members, _ := strangers(t, "alpha", "beta")
	ctx := soon(t)
	mesh, err := traffic.Start(ctx, traffic.Plan{
		Members: members, Pairs: []traffic.Pair{{From: "alpha", To: "beta", Connections: 4, Flows: 4}}, Pattern: brisk,
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(ports[1].Set(underlay.In, underlay.Faults{Loss: 10, Seed: 1})))
	for dropped := uint64(0); dropped < 20; {
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
		c, err := ports[1].Counters(underlay.In)
		qt.Assert(t, qt.IsNil(err))
		dropped = c.Dropped
	}
	qt.Assert(t, qt.IsNil(ports[1].Set(underlay.In, underlay.Faults{})))
	report, err := mesh.Stop(ctx)
	qt.Assert(t, qt.IsNil(err))
	t.Log(report)
	qt.Check(t, qt.IsNil(report.Err()))
	sum := report.Total()
	qt.Check(t, qt.Equals(sum.Datagrams, sum.Answered+sum.Lost))
	missing := int64(0)
	for _, f := range report.Pairs[0].Rounds[0].Sent {
		for _, span := range f.Missing {
			missing += int64(span.Last - span.First + 1)
		}
	}
	qt.Check(t, qt.Equals(missing, sum.Lost))
}

// TestReset ends a member in the middle: its connections are faults.
func TestReset(t *testing.T) {
	_, _, members, stops := strangers(t, "alpha", "beta")
	ctx := soon(t)
	mesh, err := traffic.Start(ctx, traffic.Plan{
		Members: members, Pairs: []traffic.Pair{{From: "alpha", To: "beta", Connections: 3}}, Pattern: brisk,
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	qt.Assert(t, qt.IsNil(stops[1]()))
	report, err := mesh.Stop(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(report.Total().Faults, 3))
	qt.Check(t, qt.Equals(strings.Count(report.Err().Error(), "alpha to beta: tcp connection"), 3))
}

func TestPlanThatIsNone(t *testing.T) {
	one := traffic.Member{Name: "one", Via: &net.Dialer{}}
	for want, plan := range map[string]traffic.Plan{
		"start traffic: two members are called one": {Members: []traffic.Member{one, one}},
		"start traffic: there is no member two":     {Members: []traffic.Member{one}, Pairs: []traffic.Pair{{From: "one", To: "two"}}},
	} {
		_, err := traffic.Start(t.Context(), plan)
		qt.Check(t, qt.ErrorMatches(err, want))
	}
}

func TestArgs(t *testing.T) {
	for at, want := range map[netip.Addr]string{
		{}:                                 ":7000",
		netip.MustParseAddr("192.0.2.1"):   "192.0.2.1:7000",
		netip.MustParseAddr("2001:db8::1"): "[2001:db8::1]:7000",
	} {
		qt.Check(t, qt.Equals(traffic.Args(at)[1], want), qt.Commentf(fmt.Sprint(at)))
	}
}
