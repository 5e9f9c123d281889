package mesh

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// DialContext connects from the app; see testenv/peer.Dialer.
func (a app) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = a.Do(func() error {
		d := net.Dialer{Timeout: 20 * time.Second}
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// serveNumbered answers numbered bytes at port 8 of the app.
func (a app) serveNumbered() {
	t := a.p.w.t
	t.Helper()
	var l net.Listener
	var c net.PacketConn
	qt.Assert(t, qt.IsNil(a.Do(func() (err error) {
		var lc net.ListenConfig
		if l, err = lc.Listen(t.Context(), "tcp", ":8"); err != nil {
			return err
		}
		c, err = lc.ListenPacket(t.Context(), "udp", ":8")
		return err
	})))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- peer.Serve(ctx, l, c, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		qt.Check(t, qt.IsNil(<-done))
	})
}

// load opens numbered streams and flows from an app to an address.
func (w *world) load(from peer.Dialer, to netip.Addr, flows int) *peer.Load {
	w.t.Helper()
	at := net.JoinHostPort(to.String(), "8")
	l, err := peer.Dial(w.t.Context(), from, peer.Target{
		TCP: at, Connections: 3, UDP: at, Flows: flows, Pattern: peer.Pattern{MaxChunk: 1 << 14, MaxPause: 2 * time.Millisecond},
	})
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(l.Close)
	return l
}

// moved waits until so many more bytes have arrived.
func (w *world) moved(l *peer.Load, bytes int64) {
	w.t.Helper()
	want := l.Stats().ReceivedBytes + bytes
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.Tick(time.Millisecond); l.Stats().ReceivedBytes < want; <-tick {
		if time.Now().After(deadline) {
			w.t.Fatalf("nothing moves: %+v", l.Stats())
		}
	}
}

// stop ends the traffic and fails if a byte is missing, double or changed, or a datagram lost.
func (w *world) stop(l *peer.Load) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	st, err := l.Stop(ctx)
	qt.Check(w.t, qt.IsNil(err))
	qt.Check(w.t, qt.IsNil(st.Err()))
}

// is fails unless both hosts say that their channel is of a kind.
func (w *world) is(kind channel.Kind) {
	w.t.Helper()
	for _, p := range []*place{w.alpha, w.beta} {
		list, err := p.Peering().Channels(w.t.Context())
		qt.Assert(w.t, qt.IsNil(err))
		qt.Assert(w.t, qt.HasLen(list, 1))
		qt.Check(w.t, qt.Equals(list[0].Channel.Module, kind.String()))
	}
}

// The kind of a channel changes under traffic, whichever host wants it: no byte and no datagram is
// lost, since each host takes both kinds before the other one sends the new one.
func TestKindChanges(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serveNumbered()
	four, six := w.load(a, b.ep.Addr4, 2), w.load(a, b.ep.Addr6, 2)
	w.is(channel.Direct)
	for _, kind := range []channel.Kind{channel.VXLAN, channel.Tunnel, channel.VXLAN, channel.WireGuard} {
		for _, p := range []*place{w.alpha, w.beta} {
			for _, only := range []channel.Kind{kind, 0} {
				qt.Assert(t, qt.IsNil(p.SetGiven(t.Context(), "", only)))
				if only == 0 {
					only = channel.Direct
				}
				w.is(only)
				w.moved(four, 1<<18)
				w.moved(six, 1<<18)
			}
		}
	}
	w.stop(four)
	w.stop(six)
}

// A daemon ends in the middle of a change, on either side, and the next one finishes it.
func TestKindChangeIsCut(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serveNumbered()
	l := w.load(a, b.ep.Addr4, 0)
	for _, p := range []*place{w.alpha, w.beta} {
		o := w.other(p)
		// What SetGiven begins with: the other host is asked, and nobody gets the answer.
		_, err := o.Peering().Switch(t.Context(), message.Caller{Host: p.h.Name()}, message.SwitchRequest{
			Network: "default", Generation: 100, Offers: p.offersOf("vxlan", o),
		})
		qt.Assert(t, qt.IsNil(err))
		w.moved(l, 1<<18)
		o.leave()
		w.moved(l, 1<<18)
		o.open()
		w.moved(l, 1<<18)
		qt.Assert(t, qt.IsNil(p.SetGiven(t.Context(), "", channel.VXLAN)))
		w.is(channel.VXLAN)
		w.moved(l, 1<<18)
		p.leave()
		p.open()
		w.moved(l, 1<<18)
		qt.Assert(t, qt.IsNil(p.SetGiven(t.Context(), "", channel.Direct)))
		w.is(channel.Direct)
		qt.Assert(t, qt.IsNil(p.SetGiven(t.Context(), "", 0)))
		w.moved(l, 1<<18)
	}
	w.stop(l)
}

// offersOf are those of one kind.
func (p *place) offersOf(kind string, to *place) (list []message.Offer) {
	for _, o := range p.net.offers(to.h.Name()) {
		if o.Module == kind {
			list = append(list, o)
		}
	}
	return list
}

// A host without BPF has channels by VXLAN, without being told to, and says what it can't do.
func TestWithoutBPF(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for _, plain := range [][]string{{"beta"}, {"alpha", "beta"}} {
		w := newWorld(t, plain...)
		qt.Check(t, qt.DeepEquals(w.beta.Kinds(), []channel.Kind{channel.VXLAN, channel.WireGuard}))
		a, b := w.alpha.attach(2), w.beta.attach(66)
		b.serve()
		b.serveNumbered()
		for _, to := range []netip.Addr{b.ep.Addr4, b.ep.Addr6} {
			c, err := a.dial(to)
			qt.Assert(t, qt.IsNil(err))
			defer c.Close()
			w.echo(c, "hello")
			qt.Check(t, qt.Equals(retransmitted(t, c), 0))
			l := w.load(a, to, 2)
			w.moved(l, 1<<20)
			w.stop(l)
		}
		w.is(channel.VXLAN)
		qt.Check(t, qt.IsNil(w.alpha.SetGiven(t.Context(), "", channel.Tunnel)))
		w.is(channel.VXLAN) // as it was
		if len(plain) == 1 {
			qt.Check(t, qt.DeepEquals(w.alpha.Peering().Unmet(), []string{
				"network default: this host is to have tunnel, which host beta does not make, or not between these networks",
			}))
		}
	}
}

// Two hosts that are told different kinds have that which counts for more, also after it was down;
// the other one says so.
func TestKindsDiffer(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serve()
	c, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	for _, x := range []struct {
		alpha, beta, want channel.Kind
		unmet             int // hosts
	}{
		{channel.VXLAN, channel.Direct, channel.VXLAN, 1},
		{channel.Direct, channel.Tunnel, channel.Tunnel, 1},
		{channel.Direct, 0, channel.Direct, 0},
		{channel.Tunnel, channel.VXLAN, channel.VXLAN, 1},
		{0, 0, channel.Direct, 0},
	} {
		qt.Assert(t, qt.IsNil(w.alpha.SetGiven(t.Context(), "", x.alpha)))
		qt.Assert(t, qt.IsNil(w.beta.SetGiven(t.Context(), "", x.beta)))
		w.is(x.want)
		w.echo(c, "hello")
		_, err := w.alpha.Peering().TakeDown(t.Context(), "", "")
		qt.Assert(t, qt.IsNil(err))
		w.echo(c, "again")
		w.is(x.want)
		qt.Check(t, qt.HasLen(append(w.alpha.Peering().Unmet(), w.beta.Peering().Unmet()...), x.unmet))
	}
}

// A network is told another kind than all others, until it is as they are.
func TestKindOfNetwork(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serve()
	c, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	for _, x := range []struct {
		network    string
		kind, want channel.Kind
	}{
		{"other", channel.VXLAN, channel.Direct},
		{"default", channel.Tunnel, channel.Tunnel},
		{"", channel.VXLAN, channel.Tunnel},
		{"default", 0, channel.VXLAN},
		{"default", channel.Direct, channel.Direct},
		{"", 0, channel.Direct},
	} {
		qt.Assert(t, qt.IsNil(w.alpha.SetGiven(t.Context(), x.network, x.kind)))
		w.is(x.want)
		w.echo(c, "hello")
	}
}
