package vxlan_test

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/channeltest"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// BenchmarkChannel compares a channel with the same device set up by hand, between the same hosts
// and behind the same routers, and with the bare underlay: see [channeltest.Compare].
func BenchmarkChannel(b *testing.B) {
	for name, underlay := range map[string]string{"ipv4": "192.0.2.0/24", "ipv6": "2001:db8::/64"} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, 1500, underlay)
			w.use(0)
			local, remote := w.ends(w.alpha, w.cables[0])
			apps := channeltest.Connect(b, w.attach(w.alpha, 2), w.attach(w.beta, 3), netip.MustParseAddr("10.77.0.3"))
			from, to := w.byHand(b, w.alpha, 2, local, remote), w.byHand(b, w.beta, 3, remote, local)
			hand := channeltest.Connect(b, from, to, netip.MustParseAddr("10.78.0.3"))
			bare := channeltest.Connect(b, w.alpha, w.beta, remote)
			channeltest.Compare(b, channeltest.Compared{Channel: apps, Hand: hand, Bare: bare}, 8<<20, 100)
		})
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// byHand makes a second network on a host, with an app and a VXLAN device that ip(8) sets up.
func (w *world) byHand(b *testing.B, p *place, n byte, local, remote netip.Addr) app {
	b.Helper()
	cfg := p.cfg
	cfg.Network, cfg.Prefix4, cfg.Prefix6 = "hand", netip.MustParsePrefix("10.78.0.0/16"), netip.MustParsePrefix("fd78::/64")
	f, err := fabric.Open(b.Context(), cfg)
	qt.Assert(b, qt.IsNil(err))
	b.Cleanup(func() {
		qt.Check(b, qt.IsNil(f.Delete(context.WithoutCancel(b.Context()))))
		qt.Check(b, qt.IsNil(f.Close()))
	})
	ns, err := netns.New()
	qt.Assert(b, qt.IsNil(err))
	b.Cleanup(func() { ns.Close() })
	ep := fabric.Endpoint{App: "hand", Addr4: netip.AddrFrom4([4]byte{10, 78, 0, n}), Addr6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x78, 15: n})}
	qt.Assert(b, qt.IsNil(f.Attach(b.Context(), ep, ns)))
	bind := filepath.Join(cfg.Dir, cfg.Network)
	other, encap := 5-n, "ip"
	if local.Is6() {
		encap = "ip6"
	}
	host := fmt.Sprintf("nsenter --net=/proc/%d/ns/net ip link ", p.KeeperPID())
	for _, command := range []string{
		host + fmt.Sprintf("add hand address 02:00:00:00:00:%02x mtu %d type vxlan external udp6zerocsumrx dstport 4790", n, networkMTU),
		host + "set hand netns " + bind,
		"sysctl -qw net.ipv4.conf.hand.rp_filter=0",
		"ip link set hand up",
		fmt.Sprintf("ip -6 neigh replace fe80::%d lladdr 02:00:00:00:00:%02x dev hand", other, other),
		fmt.Sprintf("ip route add 10.78.0.%d encap %s id 78 src %s dst %s via inet6 fe80::%d dev hand onlink", other, encap, local, remote, other),
	} {
		out, err := exec.CommandContext(b.Context(), "nsenter", "--net="+bind, "sh", "-c", command).CombinedOutput()
		qt.Assert(b, qt.IsNil(err), qt.Commentf("%s: %s", command, out))
	}
	return app{NS: ns, ep: ep}
}

// BenchmarkSwitch is the change of a host with 10,000 endpoints to another cable.
func BenchmarkSwitch(b *testing.B) {
	w := newWorld(b, 1500, "192.0.2.0/24", "198.51.100.0/24")
	w.use(0)
	routes := make([]channel.Route, 10_000)
	addr := prefix4.Addr()
	for i := range routes {
		addr = addr.Next()
		routes[i] = channel.Route{Addr: addr, Host: "beta", State: channel.Open}
	}
	qt.Assert(b, qt.IsNil(w.alpha.m.SetRoutes(b.Context(), routes)))
	hosts := []channel.Host{w.host(w.alpha, w.cables[0]), w.host(w.alpha, w.cables[1])}
	var times []float64
	for n := 1; b.Loop(); n++ {
		start := time.Now()
		qt.Assert(b, qt.IsNil(w.alpha.m.SetHost(b.Context(), hosts[n%2])))
		times = append(times, float64(time.Since(start).Microseconds())/1000)
	}
	b.ReportMetric(median(times), "switch-ms")
	b.ReportMetric(0, "ns/op")
}
