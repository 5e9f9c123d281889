package wireguard_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel/channeltest"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// BenchmarkChannel compares a channel with the same device set up by hand, between the same hosts
// and behind the same routers, and with the bare underlay: see [channeltest.Compare]. WireGuard is
// the kernel's where that has it.
func BenchmarkChannel(b *testing.B) {
	exe, err := os.Executable()
	qt.Assert(b, qt.IsNil(err))
	local := wireguard.Local{Exe: exe, UserSpace: wireguard.Kernel() != nil}
	for name, underlay := range map[string]string{"ipv4": "192.0.2.0/24", "ipv6": "2001:db8::/64"} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, local, 1500, underlay)
			w.use(0)
			apps := channeltest.Connect(b, w.attach(w.alpha, 2), w.attach(w.beta, 3), netip.MustParseAddr("10.77.0.3"))
			here, there := w.byHand(b, w.alpha, 2), w.byHand(b, w.beta, 3)
			here.lead(b, there)
			there.lead(b, here)
			hand := channeltest.Connect(b, here.app, there.app, netip.MustParseAddr("10.78.0.3"))
			_, remote := w.ends(w.alpha, w.cables[0])
			bare := channeltest.Connect(b, w.alpha, w.beta, remote)
			channeltest.Compare(b, channeltest.Compared{Channel: apps, Hand: hand, Bare: bare}, 4<<20, 50)
		})
	}
}

// manual is a host with a WireGuard device that was set up by hand.
type manual struct {
	app

	n      byte
	at     netip.Addr
	client *wgctrl.Client
	device string // as wgctrl names it
	key    wgtypes.Key
}

// handPort is that of devices that are set up by hand.
const handPort = 7300

// byHand makes a second network on a host, with an app and a device that is set up by hand.
func (w *world) byHand(b *testing.B, p *place, n byte) *manual {
	b.Helper()
	cfg := p.cfg
	cfg.Network, cfg.Prefix4, cfg.Prefix6 = "hand", netip.MustParsePrefix("10.78.0.0/16"), netip.MustParsePrefix("fd78::/64")
	f, err := fabric.Open(b.Context(), cfg)
	qt.Assert(b, qt.IsNil(err))
	ns, err := netns.New()
	qt.Assert(b, qt.IsNil(err))
	bind := filepath.Join(cfg.Dir, cfg.Network)
	b.Cleanup(func() {
		ns.Close()
		// Its file keeps the namespace, so it would not end with that.
		qt.Check(b, qt.IsNil(exec.CommandContext(context.WithoutCancel(b.Context()), "nsenter", "--net="+bind, "ip", "link", "del", "wg0").Run()))
		qt.Check(b, qt.IsNil(f.Delete(context.WithoutCancel(b.Context()))))
		qt.Check(b, qt.IsNil(f.Close()))
	})
	ep := fabric.Endpoint{App: "hand", Addr4: netip.AddrFrom4([4]byte{10, 78, 0, n}), Addr6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x78, 15: n})}
	qt.Assert(b, qt.IsNil(f.Attach(b.Context(), ep, ns)))
	at, _ := w.ends(p, w.cables[0])
	m := &manual{app: app{NS: ns, ep: ep}, n: n, at: at}
	m.device = w.makeDevice(b, p, f, bind)
	for _, command := range []string{
		"sysctl -qw net.ipv4.conf.wg0.rp_filter=0", fmt.Sprintf("ip link set wg0 mtu %d up", networkMTU), fmt.Sprintf("ip route add 10.78.0.%d dev wg0", 5-n),
	} {
		out, err := exec.CommandContext(b.Context(), "nsenter", "--net="+bind, "sh", "-c", command).CombinedOutput()
		qt.Assert(b, qt.IsNil(err), qt.Commentf("%s: %s", command, out))
	}
	qt.Assert(b, qt.IsNil(f.Namespace().Do(func() (err error) {
		m.client, err = wgctrl.New()
		return err
	})))
	b.Cleanup(func() { m.client.Close() })
	m.key, err = wgtypes.GeneratePrivateKey()
	qt.Assert(b, qt.IsNil(err))
	port := handPort
	qt.Assert(b, qt.IsNil(m.client.ConfigureDevice(m.device, wgtypes.Config{PrivateKey: &m.key, ListenPort: &port})))
	return m
}

// makeDevice makes the device wg0 in a fabric, and returns its name for wgctrl.
func (w *world) makeDevice(b *testing.B, p *place, f *fabric.Fabric, bind string) string {
	b.Helper()
	if !p.local.UserSpace {
		p.ip(b, "link", "add", "wg0", "type", "wireguard")
		p.ip(b, "link", "set", "wg0", "netns", bind)
		return "wg0"
	}
	name, err := wireguard.StartByHand(b.Context(), f.Namespace(), p.Net(), p.local, networkMTU)
	qt.Assert(b, qt.IsNil(err))
	b.Cleanup(func() { qt.Check(b, qt.IsNil(os.Remove("/var/run/wireguard/"+name+".sock"))) })
	return name
}

// lead has what is for another host's app go there.
func (m *manual) lead(b *testing.B, to *manual) {
	b.Helper()
	qt.Assert(b, qt.IsNil(m.client.ConfigureDevice(m.device, wgtypes.Config{Peers: []wgtypes.PeerConfig{{
		PublicKey: to.key.PublicKey(), Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.at, handPort)),
		AllowedIPs: []net.IPNet{{IP: to.ep.Addr4.AsSlice(), Mask: net.CIDRMask(32, 32)}},
	}}})))
}
