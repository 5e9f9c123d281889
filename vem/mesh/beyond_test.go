package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/gateway"
)

// What modules are told is a list of prefixes, each with its gateways in their order, without those
// that the network can't have.
func TestRouted(t *testing.T) {
	n := &Network{nets: []netip.Prefix{prefix4, prefix6}}
	one, two, six := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:7::/48")
	list := n.routed(gateway.Beyond{Here: []netip.Prefix{one}, Gates: []gateway.Gate{
		{Host: "zeta", Advertise: []netip.Prefix{two, six}}, {Host: "beta", Advertise: []netip.Prefix{one, two, netip.MustParsePrefix("10.0.0.0/8")}}, {Host: "none"},
	}}, func(string) bool { return false })
	qt.Check(t, qt.HasLen(list, 3))
	for i, want := range []channel.Beyond{
		{Prefix: one, Here: true, Hosts: []string{"beta"}}, {Prefix: two, Hosts: []string{"zeta", "beta"}}, {Prefix: six, Hosts: []string{"zeta"}},
	} {
		qt.Check(t, qt.Equals(list[i].Prefix, want.Prefix))
		qt.Check(t, qt.Equals(list[i].Here, want.Here))
		qt.Check(t, qt.DeepEquals(list[i].Hosts, want.Hosts))
	}
}

// via is where packets for a prefix go, by the first module that carries them.
func (p *place) via(prefix netip.Prefix) (string, bool) {
	p.w.t.Helper()
	for _, m := range p.net.modules {
		if r, ok := m.(channel.Router); ok {
			all, err := r.Via(p.w.t.Context())
			qt.Assert(p.w.t, qt.IsNil(err))
			if host, ok := all[prefix]; ok {
				return host, ok
			}
		}
	}
	return "", false
}

// Where the best gateway is another module's, worse ones only send.
func TestSplit(t *testing.T) {
	list := []channel.Beyond{{Hosts: []string{"a", "b", "c"}}, {Hosts: []string{"c", "a"}}, {Here: true, Hosts: []string{"d"}}, {}}
	of := func(names ...string) map[string]channel.Status {
		set := make(map[string]channel.Status)
		for _, n := range names {
			set[n] = channel.Status{}
		}
		return set
	}
	one, two, three := of("b", "e"), of("c"), of()
	all := []map[string]channel.Status{one, two, three}
	for i, want := range [][]channel.Beyond{
		{list[0], {Hosts: []string{"c"}, Senders: []string{"a"}}, list[2], list[3]},
		{{Hosts: []string{"a", "b"}, Senders: []string{"c"}}, list[1], list[2], list[3]},
		{{Hosts: []string{"a", "b"}, Senders: []string{"c"}}, {Hosts: []string{"c"}, Senders: []string{"a"}}, list[2], list[3]},
	} {
		qt.Check(t, qt.CmpEquals(split(list, all[i], all), want, cmpopts.EquateComparable(netip.Prefix{})), qt.Commentf("%d", i))
	}
}

// The way to a gateway is there without anybody having sent a packet, and stays up, also when channels
// become of another kind.
func TestWayToGateway(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	_, _ = w.alpha.reside(200)
	at, _ := w.beta.reside(201)
	machines := netip.MustParsePrefix("203.0.113.0/24")
	tell := func() {
		t.Helper()
		for p, b := range map[*place]gateway.Beyond{
			w.alpha: {Gates: []gateway.Gate{{Host: "beta", Addr: at, Advertise: []netip.Prefix{machines}, Alive: true}}}, w.beta: {Here: []netip.Prefix{machines}},
		} {
			qt.Assert(t, qt.IsNil(p.SetBeyond(t.Context(), "default", b)))
		}
	}
	tell()
	w.until("the way is there", func() bool { host, ok := w.alpha.via(machines); return ok && host == "beta" })
	host, ok := w.beta.via(machines)
	qt.Check(t, qt.IsTrue(ok && host == ""))
	var err error
	// A network that is made anew knows it from the first packet on.
	qt.Assert(t, qt.IsNil(w.beta.net.Close(t.Context())))
	w.beta.net, err = w.beta.Open(t.Context(), "default", w.beta.f, []netip.Prefix{prefix4, prefix6})
	qt.Assert(t, qt.IsNil(err))
	host, ok = w.beta.via(machines)
	qt.Check(t, qt.IsTrue(ok && host == ""))
	_, _ = w.beta.reside(201)
	for p, other := range map[*place]string{w.alpha: "beta", w.beta: "alpha"} {
		qt.Check(t, qt.IsTrue(p.net.keeps(other)))
	}
	qt.Check(t, qt.IsFalse(w.alpha.net.keeps("gamma")))

	// A machine behind beta reaches an app on alpha at once, by the way that its first packet waits for.
	w.down(10)
	a := w.alpha.attach(2)
	qt.Check(t, qt.Equals(w.beta.net.outward(machines.Addr().Next()), at))
	qt.Check(t, qt.Equals(w.beta.net.outward(netip.MustParseAddr("198.51.100.7")).String(), "198.51.100.7"))
	c, err := w.beta.h.DialContext(t.Context(), "tcp", net.JoinHostPort(a.ep.Addr4.String(), "9"))
	qt.Check(t, qt.IsNotNil(err), qt.Commentf("nobody listens there, which is told: %v", c))
	tell()
	w.until("the way is there again", func() bool { host, ok := w.alpha.via(machines); return ok && host == "beta" })

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	qt.Assert(t, qt.IsNil(w.alpha.SetGiven(ctx, "", channel.VXLAN)))
	w.is(channel.VXLAN)
	w.until("the way is there by that kind", func() bool { host, ok := w.alpha.via(machines); return ok && host == "beta" })
	qt.Assert(t, qt.IsNil(w.alpha.SetGiven(ctx, "", 0)))
	w.until("the way is there as before", func() bool { host, ok := w.alpha.via(machines); return ok && host == "beta" })
	qt.Check(t, qt.HasLen(w.alpha.Notes(), 0))
	why := errors.New("it rains")
	w.alpha.net.say(ctx, why)
	qt.Check(t, qt.DeepEquals(w.alpha.Notes(), []string{"network default: it rains"}))
	qt.Assert(t, qt.IsNil(w.alpha.SetBeyond(ctx, "default", gateway.Beyond{})))
	qt.Check(t, qt.HasLen(w.alpha.Notes(), 0))
}

// A gateway to which no way leads is left for another one, without anybody being told, and taken again.
func TestWayToGatewayFails(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	w.connected()
	_, _ = w.alpha.reside(200)
	at, _ := w.beta.reside(201)
	machines := netip.MustParsePrefix("203.0.113.0/24")
	for _, m := range w.alpha.net.modules { // another host, which is silent
		if slices.Contains(m.Kinds(), channel.Tunnel) {
			h := channel.Host{Name: "gamma", Kind: channel.Tunnel, Local: w.alpha.ports[0].Addr4(), Remote: netip.MustParseAddr("192.0.2.99")}
			qt.Assert(t, qt.IsNil(m.SetHost(t.Context(), h)))
		}
	}
	qt.Assert(t, qt.IsNil(w.alpha.SetBeyond(t.Context(), "default", gateway.Beyond{Gates: []gateway.Gate{
		{Host: "beta", Addr: at, Advertise: []netip.Prefix{machines}, Alive: true}, {Host: "gamma", Addr: at.Next(), Advertise: []netip.Prefix{machines}},
	}})))
	by := func(want string) {
		t.Helper()
		w.until("packets go by "+want, func() bool { host, ok := w.alpha.via(machines); return ok && host == want })
	}
	by("beta")
	for _, p := range w.beta.ports {
		qt.Assert(t, qt.IsNil(p.Cut(underlay.Both)))
	}
	by("gamma")
	for _, p := range w.beta.ports {
		qt.Assert(t, qt.IsNil(p.Mend(underlay.Both)))
	}
	by("beta")
}

// A machine's packet that is too large for the channel is answered, as one of an app is, and the size
// that it is told gets through: both ways, over each kind.
func TestBeyondTooLarge(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for kind, mtu := range map[channel.Kind]int{channel.Direct: 1350, channel.Tunnel: 1350, channel.VXLAN: 1370, channel.WireGuard: 1450} {
		t.Run(kind.String(), func(t *testing.T) { testTooLarge(t, kind, mtu) })
	}
}

func testTooLarge(t *testing.T, kind channel.Kind, underlay int) {
	t.Helper()
	w := newWorldOf(t, [2]int{underlay, underlay})
	qt.Assert(t, qt.IsNil(w.alpha.SetGiven(t.Context(), "", kind)))
	_, _ = w.alpha.reside(200)
	at, _ := w.beta.reside(201)
	machine := host.New(t, host.Config{Name: "machine"})
	behind := netip.MustParsePrefix("203.0.113.0/24")
	link, err := w.beta.h.Link(t.Context(), machine, behind)
	qt.Assert(t, qt.IsNil(err))
	r, err := host.Run(machine.Command(t.Context(), "ip", "route", "add", prefix4.String(), "via", link.A.String()))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0))
	qt.Assert(t, qt.IsNil(w.beta.f.SetGateway(fabric.Gateway{On: true, Keep: []netip.Prefix{behind}})))
	qt.Assert(t, qt.IsNil(w.beta.f.SetPublications(t.Context(), nil)))
	qt.Assert(t, qt.IsNil(w.alpha.SetBeyond(t.Context(), "default", gateway.Beyond{Gates: []gateway.Gate{{Host: "beta", Addr: at, Advertise: []netip.Prefix{behind}, Alive: true}}})))
	qt.Assert(t, qt.IsNil(w.beta.SetBeyond(t.Context(), "default", gateway.Beyond{Here: []netip.Prefix{behind}})))
	w.until("the way is there", func() bool { host, ok := w.alpha.via(behind); return ok && host == "beta" })

	a := w.alpha.attach(2)
	for name, x := range map[string]struct {
		from, to inside
		at       netip.Addr
	}{"from the machine": {machine, a, a.ep.Addr4}, "from the app": {a, machine, link.B}} {
		fd := datagramsTo(t, x.from, x.to, x.at)
		full := make([]byte, 1400-28)
		w.until(name+" a packet of full size is refused", func() bool {
			_, err := unix.Write(fd, full)
			return err == unix.EMSGSIZE
		})
		mtu, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(mtu >= 1300 && mtu <= 1330), qt.Commentf("%s: %d", name, mtu))
		w.until(name+" the size that was told gets through", func() bool {
			if _, err := unix.Write(fd, full[:mtu-28]); err != nil {
				return false
			}
			n, err := unix.Read(fd, make([]byte, 2000))
			return err == nil && n == mtu-28
		})
	}
	qt.Assert(t, qt.IsNil(w.beta.f.SetGateway(fabric.Gateway{})))
	qt.Assert(t, qt.IsNil(w.beta.f.SetPublications(t.Context(), nil)))
}
