package slowpath_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/redirect"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// pair is two sites, of which each has channels to the other, but no routes.
type pair struct {
	here, there         *site
	hereMod, thereMod   *redirect.Module
	hereAddr, thereAddr netip.Addr
}

// newPair makes the pair. The app there is the far machine of the site here.
func newPair(t *testing.T, kind channel.Kind) *pair {
	t.Helper()
	p := &pair{here: newSite(t), there: newSite(t), hereAddr: addr("192.0.2.1"), thereAddr: addr("192.0.2.2")}
	p.there.renumber(fabric.Endpoint{App: "far", Addr4: addr("10.77.0.3"), Addr6: addr("fd77::3")})
	p.here.far = p.there.app
	hereNL, thereNL := handle(t, p.here.config.Host), handle(t, p.there.config.Host)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "link0"
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = "link0", netlink.NsFd(p.there.config.Host.File().Fd())
	qt.Assert(t, qt.IsNil(hereNL.LinkAdd(v)))
	for nl, a := range map[*netlink.Handle]netip.Addr{hereNL: p.hereAddr, thereNL: p.thereAddr} {
		link, err := nl.LinkByName("link0")
		qt.Assert(t, qt.IsNil(err))
		ip, err := netlink.ParseAddr(a.String() + "/24")
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(nl.AddrAdd(link, ip)))
		qt.Assert(t, qt.IsNil(nl.LinkSetUp(link)))
	}
	p.hereMod = p.here.channels(channel.Host{Name: "there", Kind: kind, Local: p.hereAddr, Remote: p.thereAddr})
	p.thereMod = p.there.channels(channel.Host{Name: "here", Kind: kind, Local: p.thereAddr, Remote: p.hereAddr})
	return p
}

// renumber replaces the site's app by one with other addresses.
func (s *site) renumber(ep fabric.Endpoint) {
	s.tb.Helper()
	qt.Assert(s.tb, qt.IsNil(s.fabric.Detach(s.tb.Context(), appEndpoint)))
	s.app = newNS(s.tb)
	qt.Assert(s.tb, qt.IsNil(s.fabric.Attach(s.tb.Context(), ep, s.app)))
}

// channels makes a channel to another host.
func (s *site) channels(to channel.Host) *redirect.Module {
	s.tb.Helper()
	far, err := s.fabric.Far()
	if errors.Is(err, fastpath.ErrUnsupported) {
		s.tb.Skip(err)
	}
	qt.Assert(s.tb, qt.IsNil(err))
	m, err := redirect.Open(s.tb.Context(), redirect.Config(far))
	qt.Assert(s.tb, qt.IsNil(err))
	s.tb.Cleanup(func() { qt.Check(s.tb, qt.IsNil(m.Delete(context.WithoutCancel(s.tb.Context())))) })
	qt.Assert(s.tb, qt.IsNil(m.SetUnderlay(s.tb.Context(), []channel.Underlay{{Device: "link0", Addr: to.Local}})))
	qt.Assert(s.tb, qt.IsNil(m.SetHost(s.tb.Context(), to)))
	return m
}

// Prepare and Open do on both hosts what their VEMs agree about.
func (y overChannel) Prepare(ctx context.Context) error {
	for _, a := range []string{"10.77.0.2", "fd77::2"} {
		err := y.pair.thereMod.SetRoutes(ctx, []channel.Route{{Addr: addr(a), Host: "here", State: channel.Open}})
		if err != nil {
			return err
		}
	}
	return y.pair.hereMod.SetRoutes(ctx, []channel.Route{{Addr: y.to, Host: "there", State: channel.Opening}})
}

func (y overChannel) Open(ctx context.Context) error {
	return y.pair.hereMod.SetRoutes(ctx, []channel.Route{{Addr: y.to, Host: "there", State: channel.Open}})
}

type overChannel struct {
	pair *pair
	to   netip.Addr
}

// The first packets to an endpoint of another host go there by a real channel.
func TestOverChannel(t *testing.T) {
	const burst = 1000
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			p := newPair(t, kind)
			found := make(chan struct{})
			p.here.setResolve(func(ctx context.Context, q slowpath.Query) (slowpath.Way, error) {
				select {
				case <-found:
				case <-ctx.Done():
				}
				return overChannel{p, q.Destination}, nil
			})
			o := p.here.options()
			o.SetUp = p.here.fabric.PassOn
			slow := p.here.open(o)
			k := p.here.listen("udp4", ":7")
			c := p.here.mustDial("udp", "10.77.0.3:7")
			p.here.send(c, 0, burst, 1000)
			eventually(t, "all wait", func() bool { return slow.Snapshot().Packets == burst })
			close(found)
			eventually(t, "all arrive", func() bool { return len(k.from(c.LocalAddr())) == burst })
			qt.Check(t, qt.DeepEquals(k.from(c.LocalAddr()), numbers(burst)))

			p.here.serve("80")
			for _, to := range []string{"10.77.0.3:80", "[fd77::3]:80"} {
				p.here.mustDial("tcp", to)
			}
			qt.Check(t, qt.Equals(statistic(t, p.here.app, "TcpExt", "TCPSynRetrans"), 0))
			routes, err := p.hereMod.Routes(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(routes, 2))

			// Gated, and released into the channel again.
			to := addr("10.77.0.3")
			qt.Assert(t, qt.IsNil(slow.Gate(t.Context(), to)))
			qt.Assert(t, qt.IsNil(p.hereMod.RemoveRoutes(t.Context(), []netip.Addr{to})))
			p.here.send(c, burst, 100, 1000)
			eventually(t, "all wait", func() bool { return slow.Snapshot().Packets == 100 })
			slow.Release(to)
			eventually(t, "all arrive", func() bool { return len(k.from(c.LocalAddr())) == burst+100 })
			qt.Check(t, qt.DeepEquals(k.from(c.LocalAddr()), numbers(burst+100)))
		})
	}
}
