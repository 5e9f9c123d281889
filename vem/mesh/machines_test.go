package mesh

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/underlay"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/gateway"
)

// behind are the prefixes of the machine, which is behind beta and gamma.
var behind = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:7::/64")}

// outside is a world with a machine that knows nothing of snapctl and keeps its addresses, and an app of
// another host than those that are its gateways.
type outside struct {
	*world

	machine *host.Host
	own     []netip.Addr              // of the machine
	at      map[*place][]netip.Addr   // where it finds its gateways
	self    map[*place]netip.Addr     // of the hosts in the network
	gates   map[*place][]gateway.Gate // that each host was told of
	app     app                       // of alpha
	here    map[*place][]netip.Prefix // as each host was told
	listens net.Listener              // of the machine
}

// newOutside has all channels of alpha be of a kind.
func newOutside(t *testing.T, kind channel.Kind, plain ...string) *outside {
	t.Helper()
	testenv.Need(t, testenv.Root)
	o := &outside{
		world: newWorldWith(t, []string{"alpha", "beta", "gamma"}, [2]int{1500, 1500}, plain...), machine: host.New(t, host.Config{Name: "machine"}),
		at: make(map[*place][]netip.Addr), self: make(map[*place]netip.Addr), gates: make(map[*place][]gateway.Gate), here: make(map[*place][]netip.Prefix),
	}
	n, err := o.under.Network(underlay.NetworkConfig{Prefixes: behind})
	qt.Assert(t, qt.IsNil(err))
	for _, p := range []*place{o.beta, o.gamma} {
		port, err := n.Attach(t.Context(), p.h, underlay.PortConfig{})
		qt.Assert(t, qt.IsNil(err))
		o.at[p], o.here[p] = []netip.Addr{port.Addr4(), port.Addr6()}, behind
	}
	port, err := n.Attach(t.Context(), o.machine, underlay.PortConfig{})
	qt.Assert(t, qt.IsNil(err))
	o.own = []netip.Addr{port.Addr4(), port.Addr6()}
	for i, p := range o.all {
		o.self[p], _ = p.reside(byte(200 + i))
	}
	for _, p := range o.all {
		for _, g := range []*place{o.beta, o.gamma} {
			if g != p {
				o.gates[p] = append(o.gates[p], gateway.Gate{Host: g.h.Name(), Addr: o.self[g], Advertise: behind, Alive: true})
			}
		}
	}
	qt.Assert(t, qt.IsNil(o.alpha.SetGiven(t.Context(), "", kind)))
	o.app = o.alpha.attach(2)
	o.app.serve()
	o.app.serveNumbered()
	if o.listens, err = o.machine.Listen(t.Context(), "tcp", ":80"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.listens.Close() })
	for _, p := range []*place{o.beta, o.gamma} {
		qt.Assert(t, qt.IsNil(p.f.SetGateway(fabric.Gateway{On: true, Keep: behind})))
		qt.Assert(t, qt.IsNil(p.f.SetPublications(t.Context(), nil)))
		t.Cleanup(func() { // puts the host's forwarding back
			qt.Check(t, qt.IsNil(p.f.SetGateway(fabric.Gateway{})))
			qt.Check(t, qt.IsNil(p.f.SetPublications(context.WithoutCancel(t.Context()), nil)))
		})
	}
	o.tell()
	o.sends(o.beta)
	return o
}

// tell tells all hosts of the gateways.
func (o *outside) tell() {
	o.t.Helper()
	for _, p := range o.all {
		qt.Assert(o.t, qt.IsNil(p.SetBeyond(o.t.Context(), "default", gateway.Beyond{Here: o.here[p], Gates: o.gates[p]})))
	}
}

// sends has the machine send by a gateway.
func (o *outside) sends(by *place) {
	o.t.Helper()
	for i, to := range []netip.Prefix{prefix4, prefix6} {
		r, err := host.Run(o.machine.Command(o.t.Context(), "ip", "route", "replace", to.String(), "via", o.at[by][i].String()))
		qt.Assert(o.t, qt.IsNil(err))
		qt.Assert(o.t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	}
}

// by waits until what alpha's apps send to the machine goes by a gateway, and tells it again meanwhile, as
// a daemon does.
func (o *outside) by(gate *place) {
	o.t.Helper()
	o.until("packets go by "+gate.h.Name(), func() bool {
		for _, p := range behind {
			if host, ok := o.alpha.via(p); !ok || host != gate.h.Name() {
				o.tell()
				return false
			}
		}
		return true
	})
}

// dial connects the machine with the app, by IPv4 or IPv6.
func (o *outside) dial(family int) net.Conn {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 20*time.Second)
	defer cancel()
	c, err := o.machine.DialContext(ctx, "tcp", netip.AddrPortFrom(o.app.both()[family], 7).String())
	qt.Assert(o.t, qt.IsNil(err))
	o.t.Cleanup(func() { c.Close() })
	return c
}

func (a app) both() []netip.Addr { return []netip.Addr{a.ep.Addr4, a.ep.Addr6} }

// meets fails unless machine and app reach each other at their own addresses.
func (o *outside) meets() {
	t := o.t
	t.Helper()
	var l net.Listener
	qt.Assert(t, qt.IsNil(o.app.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":81")
		return err
	})))
	defer l.Close()
	seen := func(l net.Listener, c net.Conn, want netip.Addr) {
		t.Helper()
		s, err := l.Accept()
		qt.Assert(t, qt.IsNil(err))
		at := netip.MustParseAddrPort(s.RemoteAddr().String()).Addr().Unmap()
		qt.Check(t, qt.Equals(at, want))
		_, err = io.WriteString(s, "hello")
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(s.Close()))
		qt.Assert(t, qt.IsNil(c.SetDeadline(time.Now().Add(20*time.Second))))
		text, err := io.ReadAll(c)
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(text), "hello"))
		qt.Check(t, qt.IsNil(c.Close()))
	}
	for i, at := range o.app.both() {
		c, err := o.machine.DialContext(t.Context(), "tcp", netip.AddrPortFrom(at, 81).String())
		qt.Assert(t, qt.IsNil(err))
		seen(l, c, o.own[i])
		c, err = o.app.DialContext(t.Context(), "tcp", netip.AddrPortFrom(o.own[i], 80).String())
		qt.Assert(t, qt.IsNil(err))
		seen(o.listens, c, at)
	}
}

// refused is how many packets alpha has refused from other hosts.
func (o *outside) refused() (n uint64) {
	o.t.Helper()
	for _, m := range o.alpha.net.modules {
		r, err := m.Report(o.t.Context())
		qt.Assert(o.t, qt.IsNil(err))
		n += r.Drops.Refused
	}
	return n
}

// A machine that keeps its addresses, behind two gateways, and an app of another host reach each other,
// over channels of each kind, by IPv4 and IPv6, whoever begins: whichever gateway the machine sends by,
// when one fails, when channels become of another kind, and when the daemon starts anew. What a host sends
// that is no gateway is dropped.
func TestMachines(t *testing.T) {
	kinds := []channel.Kind{channel.Direct, channel.Tunnel, channel.VXLAN, channel.WireGuard}
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) { testMachines(t, kind, kinds) })
	}
	t.Run("no host has BPF", func(t *testing.T) {
		testMachines(t, channel.VXLAN, kinds[2:], "alpha", "beta", "gamma")
	})
}

func testMachines(t *testing.T, kind channel.Kind, others []channel.Kind, plain ...string) {
	t.Helper()
	o := newOutside(t, kind, plain...)
	// The machine sends by beta, and apps too; then by gamma, though apps do not.
	for _, gate := range []*place{o.beta, o.gamma} {
		o.sends(gate)
		o.meets() // its first packet is the first one of all to the app
		o.by(o.beta)
		o.meets()
		for _, to := range o.app.both() {
			l := o.load(o.machine, to, 1)
			o.moved(l, 1<<20)
			o.stop(l)
		}
	}

	c4, c6 := o.dial(0), o.dial(1) // by gamma
	goes := func(when string) {
		t.Helper()
		o.echo(c4, when)
		o.echo(c6, when)
	}
	goes("hello")
	o.until("the ways work", func() bool { return len(o.alpha.Ways("beta")) > 0 && len(o.alpha.Ways("gamma")) > 0 })
	for _, p := range o.beta.ports {
		qt.Assert(t, qt.IsNil(p.Cut(underlay.Both)))
	}
	o.by(o.gamma)
	goes("the gateway that answers took has failed")
	for _, p := range o.beta.ports {
		qt.Assert(t, qt.IsNil(p.Mend(underlay.Both)))
	}
	o.by(o.beta)
	goes("it is back")

	o.isGateway(kind)

	// Kinds change under traffic.
	four, six := o.load(o.machine, o.app.ep.Addr4, 0), o.load(o.machine, o.app.ep.Addr6, 0)
	for _, next := range append(others, kind) {
		qt.Assert(t, qt.IsNil(o.alpha.SetGiven(t.Context(), "", next)))
		o.by(o.beta)
		o.moved(four, 1<<18)
		o.moved(six, 1<<18)
	}
	// And the daemon starts anew, and knows nothing of machines for a while.
	o.alpha.leave()
	o.alpha.open()
	o.meet()
	o.moved(four, 1<<18)
	qt.Assert(t, qt.IsNil(o.alpha.SetGiven(t.Context(), "", kind)))
	o.by(o.beta)
	o.moved(six, 1<<18)
	o.stop(four)
	o.stop(six)
	goes("good bye")
	o.meets()
}

// isGateway fails unless alpha drops what gamma sends of the machine when it is told that gamma is no
// gateway, and, where packets of machines come by UDP within the fabric, what an app sends there.
func (o *outside) isGateway(kind channel.Kind) {
	t := o.t
	t.Helper()
	all := o.gates[o.alpha]
	o.gates[o.alpha] = all[:1]
	o.tell()
	var in net.PacketConn
	qt.Assert(t, qt.IsNil(o.app.Do(func() (err error) {
		in, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", ":9")
		return err
	})))
	defer in.Close()
	out, err := o.machine.ListenPacket(t.Context(), "udp", ":9")
	qt.Assert(t, qt.IsNil(err))
	defer out.Close()
	for _, to := range o.app.both() {
		at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9))
		before := o.refused()
		o.sends(o.gamma)
		_, err = out.WriteTo([]byte("by gamma"), at)
		qt.Assert(t, qt.IsNil(err))
		o.until("it is refused", func() bool { return o.refused() > before })
		if kind == channel.WireGuard {
			o.inject(to)
		}
		o.sends(o.beta)
		_, err = out.WriteTo([]byte("by beta"), at)
		qt.Assert(t, qt.IsNil(err))
		buf := make([]byte, 100)
		qt.Assert(t, qt.IsNil(in.SetReadDeadline(time.Now().Add(20*time.Second))))
		n, _, err := in.ReadFrom(buf)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(buf[:n]), "by beta"))
	}
	o.gates[o.alpha] = all
	o.tell()
	o.sends(o.gamma)
}

// inject has an app of the same host send, to each address of the fabric, what a gateway would send of the
// machine: as VXLAN packets, of which the fabric drops each.
func (o *outside) inject(to netip.Addr) {
	t := o.t
	t.Helper()
	evil := o.alpha.attach(3)
	var mac net.HardwareAddr
	var here []netip.Addr
	qt.Assert(t, qt.IsNil(o.alpha.f.Namespace().Do(func() error {
		d, err := net.InterfaceByName(fabric.MachinesDevice)
		if err != nil {
			return err
		}
		mac = d.HardwareAddr
		w, err := net.InterfaceByName(fabric.WireGuardDevice)
		if err != nil {
			return err
		}
		addrs, err := w.Addrs()
		for _, a := range addrs {
			here = append(here, netip.MustParsePrefix(a.String()).Addr())
		}
		return err
	})))
	qt.Assert(t, qt.HasLen(here, 1))
	frame := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, (10<<16|77<<8)<<8)
	frame = append(append(frame, mac...), 2, 0, 0, 0, 0, 9)
	own := o.own[0]
	if to.Is6() {
		own = o.own[1]
	}
	frame = append(frame, datagram(own, to, "injected")...)
	for _, at := range []netip.Addr{here[0], netip.MustParseAddr("169.254.1.1")} {
		before := o.refused()
		qt.Assert(t, qt.IsNil(evil.Do(func() error {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", netip.AddrPortFrom(at, 7077).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(frame)
			return err
		})))
		o.until("it is dropped", func() bool { return o.refused() > before })
	}
	qt.Assert(t, qt.IsNil(o.alpha.f.Detach(t.Context(), evil.ep)))
}

// datagram is what follows the addresses of an Ethernet frame: a datagram for port 9.
func datagram(from, to netip.Addr, text string) []byte {
	udp := append([]byte{0, 9, 0, 9, 0, byte(8 + len(text)), 0, 0}, text...)
	src, dst := from.AsSlice(), to.AsSlice()
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(udp))
	add := func(b []byte) {
		for i := 0; i < len(b)-1; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	fold := func() uint16 {
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		return ^uint16(sum)
	}
	add(src)
	add(dst)
	add(udp)
	binary.BigEndian.PutUint16(udp[6:], fold())
	if from.Is6() {
		p := append([]byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, src...)
		return append(append(p, dst...), udp...)
	}
	ip := append([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, append(src, dst...)...)
	sum = 0
	add(ip)
	binary.BigEndian.PutUint16(ip[10:], fold())
	return append(append([]byte{8, 0}, ip...), udp...)
}
