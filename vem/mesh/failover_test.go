package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/underlay"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/probe"
)

// until asks again and again.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	for !is() {
		if !pause.For(ctx, 10*time.Millisecond, nil) {
			w.t.Fatalf("%s: alpha has %+v, beta has %+v", what, w.alpha.Ways("beta"), w.beta.Ways("alpha"))
		}
	}
}

// on tells whether the channel is on the n-th network, as both hosts have it.
func (w *world) on(n int) bool {
	for _, p := range []*place{w.alpha, w.beta} {
		list, err := p.Peering().Channels(w.t.Context())
		qt.Assert(w.t, qt.IsNil(err))
		o := w.other(p)
		if len(list) != 1 || list[0].Channel.Local.Addr() != p.ports[n].Addr4() || list[0].Channel.Remote.Addr() != o.ports[n].Addr4() {
			return false
		}
	}
	return true
}

// way is what a host knows of the way over the n-th network.
func (p *place) way(n int) (w Way) {
	for _, w := range p.Ways(p.w.other(p).h.Name()) {
		if w.Local == p.ports[n].Addr4() && w.Remote.Addr() == p.w.other(p).ports[n].Addr4() {
			return w
		}
	}
	return Way{}
}

// connected has a connection between two apps, on the first network, both of which are known to
// work.
func (w *world) connected() (a, b app, c net.Conn) {
	t := w.t
	t.Helper()
	a, b = w.alpha.attach(2), w.beta.attach(66)
	b.serve()
	c, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { c.Close() })
	w.echo(c, "hello")
	w.until("both ways work", func() bool {
		return !slices.ContainsFunc([]Way{w.alpha.way(0), w.alpha.way(1), w.beta.way(0), w.beta.way(1)}, func(w Way) bool { return w.State != probe.Up })
	})
	return a, b, c
}

// A way fails, in whatever manner, under a connection, which goes on by the next one; when the
// better way works again, it is taken again.
func TestWayFails(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	_, _, c := w.connected()
	w.until("the better way is taken", func() bool { return w.on(0) })
	first := w.alpha.ports[0]
	for _, cut := range []underlay.Direction{underlay.Out, underlay.In} {
		qt.Assert(t, qt.IsNil(first.Cut(cut)))
		w.echo(c, "cut "+cut.String())
		w.until("the other way is taken", func() bool { return w.on(1) })
		w.echo(c, "by the other way")
		if cut == underlay.In {
			break
		}
		qt.Assert(t, qt.IsNil(first.Mend(cut)))
		w.until("the better way is taken again", func() bool { return w.on(0) })
		w.echo(c, "as before")
	}
}

// Until the other host agrees to another way it is asked again and again, and that is logged once.
func TestWayIsAskedFor(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const message = "the channels to a host take another way"
	w := newWorld(t)
	_, _, c := w.connected()
	w.until("the better way is taken", func() bool { return w.on(0) })
	before := map[*place]int{w.alpha: w.alpha.log.count(message), w.beta: w.beta.log.count(message)}
	var asked atomic.Int32
	agree := func(fn func() error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.agrees = fn
	}
	agree(func() error { asked.Add(1); return errors.New("not now") })
	qt.Assert(t, qt.IsNil(w.alpha.ports[0].Cut(underlay.Both)))
	w.until("it was asked for often", func() bool { return asked.Load() >= 6 })
	agree(nil)
	w.until("the other way is taken", func() bool { return w.on(1) })
	w.echo(c, "by the other way")
	all := 0
	for p, n := range before {
		now := p.log.count(message) - n
		qt.Check(t, qt.IsTrue(now <= 1), qt.Commentf("%s: %d", p.h.Name(), now))
		all += now
	}
	qt.Check(t, qt.IsTrue(all > 0))
}

// A link goes down, and one host sees that: nobody waits for probes.
func TestLinkGoesDown(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	_, _, c := w.connected()
	qt.Assert(t, qt.IsNil(w.alpha.ports[0].Down()))
	w.alpha.look()
	w.until("the other way is taken", func() bool { return w.on(1) })
	w.echo(c, "by the other way")
	qt.Assert(t, qt.IsNil(w.alpha.ports[0].Up(t.Context())))
	w.alpha.look()
	w.until("the better way is taken again", func() bool { return w.on(0) })
	w.echo(c, "as before")
}

// A way that loses much is left for one that does not.
func TestLossyWay(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	_, _, c := w.connected()
	qt.Assert(t, qt.IsNil(w.alpha.ports[0].Set(underlay.Both, underlay.Faults{Loss: 30, Seed: 1})))
	w.until("the other way is taken", func() bool { return w.on(1) })
	w.echo(c, "by the other way")
}

// A way carries less than the device sends: a packet of full size is answered, once that is known,
// and the size that is told gets through.
func TestHole(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b, _ := w.connected()
	qt.Assert(t, qt.IsNil(w.alpha.ports[1].Down()))
	w.alpha.look()
	hole := w.beta.ports[0]
	qt.Assert(t, qt.IsNil(hole.SetMTU(1350)))
	w.beta.look()
	w.until("the size is found", func() bool { return w.alpha.way(0).MTU < 1400 && w.beta.way(0).MTU == 1350 })
	echo := a.datagrams(t, b)
	full := make([]byte, 1400-28)
	w.until("a packet of full size is refused", func() bool {
		_, err := unix.Write(echo, full)
		return err == unix.EMSGSIZE
	})
	mtu, err := unix.GetsockoptInt(echo, unix.IPPROTO_IP, unix.IP_MTU)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(mtu >= 1300 && mtu < 1400), qt.Commentf("%d", mtu))
	answered := 0
	w.until("the size that was told gets through", func() bool { // after what was said of packets before
		if _, err := unix.Write(echo, full[:mtu-28]); err != nil {
			return false
		}
		answered, err = unix.Read(echo, make([]byte, 2000))
		return err == nil
	})
	qt.Check(t, qt.Equals(answered, mtu-28))
}

// datagrams is a socket that is answered by another app, whose packets may not be fragmented.
func (a app) datagrams(t *testing.T, b app) (fd int) {
	t.Helper()
	return datagramsTo(t, a, b, b.ep.Addr4)
}

// inside is where sockets are.
type inside interface{ Do(fn func() error) error }

// datagramsTo is a socket somewhere that is answered somewhere else, at an address there; its packets may
// not be fragmented.
func datagramsTo(t *testing.T, from, to inside, at netip.Addr) (fd int) {
	t.Helper()
	var c net.PacketConn
	qt.Assert(t, qt.IsNil(to.Do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", ":9")
		return err
	})))
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	qt.Assert(t, qt.IsNil(from.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})))
	t.Cleanup(func() { unix.Close(fd) })
	limit := unix.Timeval{Sec: 20}
	qt.Assert(t, qt.IsNil(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)))
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)))
	qt.Assert(t, qt.IsNil(unix.Connect(fd, &unix.SockaddrInet4{Addr: at.As4(), Port: 9})))
	return fd
}

// Underlays of 1280 and 9000 bytes: the first has no room for a channel and is not taken, though
// it is the better one.
func TestSizesOfUnderlays(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorldOf(t, [2]int{1280, 9000})
	_, _, c := w.connected()
	qt.Check(t, qt.IsTrue(w.on(1)))
	w.until("the sizes are found", func() bool { return w.alpha.way(0).MTU == 1280 && w.alpha.way(1).MTU == 9000 })
	qt.Check(t, qt.IsTrue(w.on(1)))
	w.echo(c, "over the large one")
}

// An underlay that has room for channels of one kind, and not of another one, which takes the next.
func TestSizesOfKinds(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorldOf(t, [2]int{1320, 1500})
	qt.Assert(t, qt.IsNil(w.alpha.SetGiven(t.Context(), "", channel.VXLAN)))
	_, _, c := w.connected()
	w.is(channel.VXLAN)
	w.until("the sizes are found", func() bool { return w.alpha.way(0).MTU == 1320 && w.alpha.way(1).MTU == 1500 })
	qt.Check(t, qt.IsTrue(w.on(1)))
	w.echo(c, "over the large one")
	qt.Assert(t, qt.IsNil(w.alpha.SetGiven(t.Context(), "", channel.Tunnel)))
	w.until("the better way is taken, which has room for this kind", func() bool { return w.on(0) })
	w.is(channel.Tunnel)
	w.echo(c, "over the small one")
}

// The least size of a way is what IPv6 needs inside, and the headers of the kind of channel.
func TestLeast(t *testing.T) {
	four := peering.Way{Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2")}
	six := peering.Way{Local: netip.MustParseAddr("2001:db8::1"), Remote: netip.MustParseAddr("2001:db8::2")}
	const newer channel.Kind = 99 // whatever it is
	for k, want := range map[channel.Kind][2]int{
		channel.Direct: {1300, 1320}, channel.Tunnel: {1300, 1320}, channel.VXLAN: {1330, 1350}, newer: {1340, 1360},
	} {
		qt.Check(t, qt.Equals(least(k, four), want[0]), qt.Commentf("%s", k))
		qt.Check(t, qt.Equals(least(k, six), want[1]), qt.Commentf("%s", k))
		at := probe.Way{Pair: probe.Pair{Local: four.Local, Remote: netip.AddrPortFrom(four.Remote, 7078)}, MTU: want[0]}
		qt.Check(t, qt.IsFalse(narrow(k, at)))
		at.MTU--
		qt.Check(t, qt.IsTrue(narrow(k, at)))
		at.MTU = 0 // not known
		qt.Check(t, qt.IsFalse(narrow(k, at)))
	}
}

// Nothing is probed without a channel, and what was known of a way is remembered.
func TestNoChannelNoProbes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	qt.Check(t, qt.HasLen(w.alpha.Ways("beta"), 0))
	w.connected()
	qt.Assert(t, qt.IsNil(w.alpha.ports[0].Cut(underlay.Both)))
	// The other host may have found that out, and this one only have agreed.
	w.until("it is known which way works", func() bool {
		return w.on(1) && w.alpha.way(0).State == probe.Down && w.alpha.way(1).State == probe.Up
	})
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Assert(t, qt.IsNil(p.Peering().Remove(t.Context(), "default")))
	}
	w.until("nothing is probed", func() bool { return len(w.alpha.Ways("beta"))+len(w.beta.Ways("alpha")) == 0 })
	qt.Check(t, qt.IsFalse(w.alpha.works("beta", channel.Direct, wayOf(probe.Way{Pair: probe.Pair{
		Local: w.alpha.ports[0].Addr4(), Remote: netip.AddrPortFrom(w.beta.ports[0].Addr4(), 7077+ProbePort),
	}}))))
	qt.Assert(t, qt.IsNil(w.alpha.RemoveHost(t.Context(), "beta")))
	qt.Check(t, qt.HasLen(w.alpha.judged, 0))
}
