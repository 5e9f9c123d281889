package mesh

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// The first packet to an endpoint of another host finds its way, and none is sent twice for it.
func TestFirstPacket(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serve()
	for _, to := range []netip.Addr{b.ep.Addr4, b.ep.Addr6} {
		c, err := a.dial(to)
		qt.Assert(t, qt.IsNil(err))
		defer c.Close()
		w.echo(c, "hello")
		qt.Check(t, qt.Equals(retransmitted(t, c), 0))
	}
	for _, p := range []*place{w.alpha, w.beta} {
		list, err := p.Peering().Channels(t.Context())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(list, 1))
		qt.Check(t, qt.Equals(list[0].Channel.Module, "direct"))
		qt.Check(t, qt.HasLen(list[0].Routes, 2))
		qt.Check(t, qt.IsTrue(list[0].Traffic.Sent.Packets > 0))
	}
	before := w.calls
	again, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	defer again.Close()
	w.echo(again, "again")
	qt.Check(t, qt.Equals(w.calls, before)) // nobody was asked
}

// retransmitted is how many segments of a connection were sent again.
func retransmitted(t *testing.T, c net.Conn) int {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn() //nolint:forcetypeassert // it is
	qt.Assert(t, qt.IsNil(err))
	var info *unix.TCPInfo
	var ierr error
	qt.Assert(t, qt.IsNil(raw.Control(func(fd uintptr) { info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })))
	qt.Assert(t, qt.IsNil(ierr))
	return int(info.Total_retrans)
}

// A channel goes down under a connection, which notices nothing, and comes up with its next byte.
func TestChannelGoesDown(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serve()
	c, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	w.echo(c, "up")
	generation := uint64(10)
	down := func() {
		for _, p := range []*place{w.alpha, w.beta} {
			generation++
			qt.Check(t, qt.IsNil(p.Peering().Disconnect(t.Context(), message.Caller{Host: w.other(p).h.Name()}, message.DisconnectRequest{
				Network: "default", Generation: generation,
			})))
		}
	}
	down()
	for _, p := range []*place{w.alpha, w.beta} {
		list, err := p.Peering().Channels(t.Context())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(list, 0))
	}
	w.echo(c, "up again")

	// And under traffic.
	stream, done := make([]byte, 8<<20), make(chan struct{})
	_, _ = rand.Read(stream)
	go func() {
		defer close(done)
		for range 20 {
			down()
		}
	}()
	w.echo(c, string(stream))
	<-done
	w.echo(c, "still up")
}

// Nobody has an address, and then somebody has.
func TestNobody(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a := w.alpha.attach(2)
	_, err := a.dial(netip.MustParseAddr("10.77.0.66"))
	qt.Assert(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
	b := w.beta.attach(66)
	b.serve()
	w.alpha.net.Here(b.ep.Addr4) // as the directory tells
	c, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	w.echo(c, "hello")
}

// opened waits until the way to an address of another host's app is open for all packets. Others
// that the host was told of open when they are used.
func (p *place) opened(to netip.Addr) {
	p.w.t.Helper()
	p.awaitRoute(to, true)
}

// awaitRoute waits until there is such a way, or until there is none.
func (p *place) awaitRoute(to netip.Addr, wanted bool) {
	t := p.w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		var all []channel.Route
		for _, m := range p.net.modules {
			list, err := m.Routes(ctx)
			qt.Assert(t, qt.IsNil(err))
			all = append(all, list...)
		}
		if slices.ContainsFunc(all, func(r channel.Route) bool { return r.Addr == to && r.State == channel.Open }) == wanted {
			return
		}
		qt.Assert(t, qt.IsNil(ctx.Err()), qt.Commentf("%+v", all))
		runtime.Gosched()
	}
}

// Traffic goes on without a daemon, and the next one goes on with what is there.
func TestRestart(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serve()
	c, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	w.echo(c, "before")
	for p, to := range map[*place]app{w.alpha: b, w.beta: a} { // in any order
		p.opened(to.ep.Addr4) // what has no open way yet waits for the next daemon
		p.leave()
		w.echo(c, "without "+p.h.Name())
		p.open()
		w.meet()
		w.echo(c, "with "+p.h.Name())
	}
	list, err := w.alpha.Peering().Channels(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(list, 1))
	other, err := a.dial(b.ep.Addr6)
	qt.Assert(t, qt.IsNil(err))
	defer other.Close()
	w.echo(other, "hello")
}

// What is sent while no daemon runs, and has no way, waits for the next one.
func TestWaitsForDaemon(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(66)
	b.serve()
	w.alpha.leave()
	// Datagrams: nobody sends them a second time.
	var to, from net.PacketConn
	qt.Assert(t, qt.IsNil(b.Do(func() (err error) {
		to, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", ":9")
		return err
	})))
	defer to.Close()
	qt.Assert(t, qt.IsNil(a.Do(func() (err error) {
		from, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", ":0")
		return err
	})))
	defer from.Close()
	for i := range byte(10) {
		_, err := from.WriteTo([]byte{i}, &net.UDPAddr{IP: b.ep.Addr4.AsSlice(), Port: 9})
		qt.Assert(t, qt.IsNil(err))
	}
	w.alpha.open()
	qt.Assert(t, qt.IsNil(to.SetReadDeadline(time.Now().Add(20*time.Second))))
	for i := range byte(10) {
		got := make([]byte, 9)
		n, _, err := to.ReadFrom(got)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(got[:n], []byte{i}))
	}
}
