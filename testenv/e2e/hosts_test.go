package e2e

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
	"github.com/snapctl/snapctl/testenv/underlay"
)

// hosts are several worlds on one underlay, each with a daemon and a state directory
// of its own. Each is on two networks: eth0 on lan, which has IPv4 and IPv6, and eth1
// on wan.
type hosts struct {
	t        *testing.T
	net      *underlay.Underlay
	lan, wan *underlay.Network
	worlds   []*World
	eth0     []*underlay.Port
	eth1     []*underlay.Port
	// rebooted is a host whose networks were made anew, because it was started again; empty: none.
	rebooted string
}

// newHosts makes a world for each name.
func newHosts(t *testing.T, names ...string) *hosts {
	t.Helper()
	return makeHosts(t, newWorld, names...)
}

// makeHosts makes each world by a function.
func makeHosts(t *testing.T, world func(*testing.T, host.Config, func(*host.Host), ...string) *World, names ...string) *hosts {
	t.Helper()
	hs := &hosts{t: t, net: underlay.New(t)}
	hs.lan = hs.network("lan", "192.0.2.0/24", "2001:db8:1::/64")
	hs.wan = hs.network("wan", "198.51.100.0/24")
	for _, name := range names {
		hs.worlds = append(hs.worlds, world(t, host.Config{Name: name}, func(h *host.Host) {
			hs.eth0 = append(hs.eth0, hs.attach(hs.lan, h))
			hs.eth1 = append(hs.eth1, hs.attach(hs.wan, h))
		}))
	}
	// Before the worlds look for leaks.
	t.Cleanup(func() { qt.Check(t, qt.IsNil(hs.net.Close())) })
	return hs
}

func (hs *hosts) network(name string, prefixes ...string) *underlay.Network {
	hs.t.Helper()
	cfg := underlay.NetworkConfig{Name: name}
	for _, p := range prefixes {
		cfg.Prefixes = append(cfg.Prefixes, netip.MustParsePrefix(p))
	}
	n, err := hs.net.Network(cfg)
	qt.Assert(hs.t, qt.IsNil(err))
	return n
}

func (hs *hosts) attach(n *underlay.Network, h *host.Host) *underlay.Port {
	hs.t.Helper()
	p, err := n.Attach(hs.t.Context(), h, underlay.PortConfig{})
	qt.Assert(hs.t, qt.IsNil(err))
	return p
}

// stranger is a host of a network without a daemon, with a member of the traffic.
func (hs *hosts) stranger(name string, on *underlay.Network) traffic.Member {
	hs.t.Helper()
	h := host.New(hs.t, host.Config{Name: name})
	m, stop, err := traffic.Stranger(hs.t.Context(), h, hs.attach(on, h).Addr4())
	qt.Assert(hs.t, qt.IsNil(err))
	hs.t.Cleanup(func() { qt.Check(hs.t, qt.IsNil(stop())) })
	return m
}

// member runs an app that takes part in the traffic at its host's address of lan.
func (hs *hosts) member(i int) traffic.Member {
	hs.t.Helper()
	return hs.published(i, "peer")
}

// published is member of an app with a name.
func (hs *hosts) published(i int, app string) traffic.Member {
	hs.t.Helper()
	w := hs.worlds[i]
	program, err := w.Install(hs.t.Context(), "peer")
	qt.Assert(hs.t, qt.IsNil(err))
	w.Run(&api.RunRequest{
		Name: app, Args: append([]string{program}, traffic.Args(netip.Addr{})...),
		Publish: []*api.Publication{
			{Protocol: "tcp", HostPort: traffic.Port, Port: traffic.Port},
			{Protocol: "udp", HostPort: traffic.Port, Port: traffic.Port},
			{Protocol: "tcp", HostPort: traffic.ControlPort, Port: traffic.ControlPort},
		},
	})
	return traffic.Member{Name: w.Name(), Addr: hs.eth0[i].Addr4(), Via: w}
}

// everyone starts traffic among an app of each world and a stranger.
func (hs *hosts) everyone() *traffic.Mesh {
	hs.t.Helper()
	ctx, cancel := context.WithTimeout(hs.t.Context(), 2*time.Minute)
	defer cancel()
	members := []traffic.Member{hs.stranger("stranger", hs.lan)}
	for i := range hs.worlds {
		members = append(members, hs.member(i))
	}
	mesh, err := traffic.Start(ctx, traffic.Plan{
		Members: members, Pairs: traffic.Everyone(members, 4, 1), Pattern: peer.Pattern{MaxPause: 100 * time.Millisecond},
	})
	qt.Assert(hs.t, qt.IsNil(err))
	qt.Assert(hs.t, qt.IsNil(mesh.Progress(ctx)))
	return mesh
}

// unharmed ends traffic and proves that no connection was harmed.
func (hs *hosts) unharmed(ctx context.Context, mesh *traffic.Mesh) {
	hs.t.Helper()
	report, err := mesh.Stop(ctx)
	qt.Assert(hs.t, qt.IsNil(err))
	hs.t.Log(report)
	qt.Check(hs.t, qt.IsNil(report.Err()))
}

// TestHosts has apps of three hosts and a stranger talk to one another by the hosts'
// addresses, while apps sleep, daemons are killed and the network is divided.
func TestHosts(t *testing.T) {
	hs := newHosts(t, "alpha", "beta", "gamma")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	mesh := hs.everyone()
	alpha, beta, gamma := hs.worlds[0], hs.worlds[1], hs.worlds[2]

	alpha.Hibernate("peer")
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx))) // it woke

	for _, w := range hs.worlds {
		qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
		w.Dial()
	}
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))

	qt.Assert(t, qt.IsNil(hs.net.Partition(underlay.Group{alpha.Host}, underlay.Group{beta.Host, gamma.Host})))
	beta.Hibernate("peer")
	qt.Assert(t, qt.IsNil(hs.net.Heal(ctx)))
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	hs.unharmed(ctx, mesh)
}
