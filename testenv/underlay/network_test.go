package underlay_test

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
)

func device(t *testing.T, h *host.Host, name string) (dev netlink.Link) {
	t.Helper()
	err := h.Do(func() (err error) {
		dev, err = netlink.LinkByName(name)
		return err
	})
	qt.Assert(t, qt.IsNil(err))
	return dev
}

func TestNetworks(t *testing.T) {
	h := hosts(t, "alpha", "beta", "gamma")
	u := underlay.New(t)
	lan := network(t, u, underlay.NetworkConfig{Name: "lan", Prefixes: []netip.Prefix{lan4, lan6}})
	wan := network(t, u, underlay.NetworkConfig{Name: "wan", Prefixes: []netip.Prefix{wan4}, MTU: 9000})
	var onLan, onWan []*underlay.Port
	for _, h := range h {
		onLan = append(onLan, attach(t, lan, h, underlay.PortConfig{}))
		onWan = append(onWan, attach(t, wan, h, underlay.PortConfig{Device: "fast0", Line: h.Name() == "gamma"}))
	}
	qt.Check(t, qt.Equals(onLan[2].Device(), "eth0"))
	qt.Check(t, qt.Equals(onLan[2].Addr4(), netip.MustParseAddr("192.0.2.3")))
	qt.Check(t, qt.Equals(onLan[2].Addr6(), netip.MustParseAddr("2001:db8:1::3")))
	qt.Check(t, qt.IsFalse(onWan[2].Addr6().IsValid()))
	qt.Check(t, qt.Equals(device(t, h[2], "eth0").Attrs().MTU, 1500))
	qt.Check(t, qt.Equals(device(t, h[2], "fast0").Attrs().MTU, 9000))
	for i, from := range h {
		for j, to := range h {
			if i == j {
				continue
			}
			reaches(t, from, to, onLan[j].Addr4())
			reaches(t, from, to, onLan[j].Addr6())
			reaches(t, from, to, onWan[j].Addr4())
		}
	}
	// One host less makes no difference to the others.
	qt.Assert(t, qt.IsNil(h[0].Close(t.Context())))
	reaches(t, h[1], h[2], onWan[2].Addr4())
	qt.Assert(t, qt.IsNil(onWan[2].Remove()))
	qt.Check(t, qt.Equals(onLan[1].String(), "eth0 of beta"))
}

func TestCable(t *testing.T) {
	h, a, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}, Cable: true}, false)
	reaches(t, h[0], h[1], b.Addr4())
	qt.Assert(t, qt.IsNil(a.Down()))
	for i, h := range h {
		until(t, "both ends lose the carrier", func() error {
			if device(t, h, "eth0").Attrs().OperState == netlink.OperUp {
				return errors.New("carrier")
			}
			return nil
		})
		qt.Check(t, qt.Not(qt.Equals(device(t, h, "eth0").Attrs().Flags&net.FlagUp, 0)), qt.Commentf("%d: set down", i))
	}
	qt.Assert(t, qt.IsNil(b.Up(t.Context())))
	reaches(t, h[0], h[1], b.Addr4())
}

func TestThirdEndOfCable(t *testing.T) {
	h := hosts(t, "alpha", "beta", "gamma")
	n := network(t, underlay.New(t), underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}, Cable: true})
	attach(t, n, h[0], underlay.PortConfig{})
	attach(t, n, h[1], underlay.PortConfig{})
	_, err := n.Attach(t.Context(), h[2], underlay.PortConfig{})
	qt.Check(t, qt.ErrorMatches(err, "attach eth0 of gamma to net1: it has 2 ports already"))
}

// TestTakenName fails an attachment half-way.
func TestTakenName(t *testing.T) {
	h, _, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}}, false)
	n := network(t, underlay.New(t), underlay.NetworkConfig{Prefixes: []netip.Prefix{wan4}})
	_, err := n.Attach(t.Context(), h[0], underlay.PortConfig{Device: "eth0"})
	qt.Check(t, qt.ErrorMatches(err, "attach eth0 of alpha to net1: add pair of devices: file exists"))
	attach(t, n, h[0], underlay.PortConfig{Device: "eth1"})
	reaches(t, h[0], h[1], b.Addr4())
}

func TestAddresses(t *testing.T) {
	h, a, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4, lan6}}, false)
	for _, at := range []netip.Prefix{netip.MustParsePrefix("192.0.2.77/24"), netip.MustParsePrefix("2001:db8:1::77/64")} {
		qt.Assert(t, qt.IsNil(b.AddAddress(t.Context(), at)))
		reaches(t, h[0], h[1], at.Addr())
		qt.Assert(t, qt.IsNil(b.RemoveAddress(at)))
		qt.Check(t, qt.ErrorMatches(b.RemoveAddress(at), "remove address .* from eth0 of beta: cannot assign requested address"))
	}
	reaches(t, h[0], h[1], b.Addr4())
	qt.Assert(t, qt.IsNil(b.RemoveAddress(netip.PrefixFrom(b.Addr4(), 24))))
	qt.Check(t, qt.IsFalse(b.Addr4().IsValid()))
	reaches(t, h[1], h[0], a.Addr6())
}

func TestMTU(t *testing.T) {
	h, a, b := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}}, false)
	qt.Assert(t, qt.IsNil(errors.Join(a.SetMTU(9000), b.SetMTU(9000))))
	p := newPipe(t, h[0], h[1], a.Addr4(), b.Addr4())
	p.size = 8972
	qt.Assert(t, qt.IsNil(p.send(0, 3)))
	p.receive(3)
	p.all(3)
}

// TestHostKeepsItsHooks checks that nothing is on a host's device but the device.
func TestHostKeepsItsHooks(t *testing.T) {
	h, a, _ := pair(t, underlay.NetworkConfig{Prefixes: []netip.Prefix{lan4}}, false)
	qt.Assert(t, qt.IsNil(a.Cut(underlay.Both)))
	if _, err := exec.LookPath("tc"); err != nil {
		t.Skip("no tc")
	}
	r, err := host.Run(h[0].Command(t.Context(), "tc", "qdisc", "show", "dev", "eth0"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(r.Stdout, "qdisc noqueue 0: root refcnt 2 \n"))
}
