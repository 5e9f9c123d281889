package mesh

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// All endpoints of both hosts reach one another over a channel that the first two have brought up,
// also those that come later.
func TestManyEndpoints(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, a2 := w.alpha.attach(2), w.alpha.attach(3)
	b, b2 := w.beta.attach(66), w.beta.attach(67)
	a.serve()
	b.serve()
	talk := func(from, to app) {
		t.Helper()
		c, err := from.dial(to.ep.Addr4)
		qt.Assert(t, qt.IsNil(err))
		defer c.Close()
		w.echo(c, "hello")
	}
	talk(a, b)
	talk(a2, b)
	talk(b2, a)
	a3 := w.alpha.attach(4)
	w.alpha.net.Here(a3.ep.Addr4)
	talk(a3, b)
	b3 := w.beta.attach(68)
	w.beta.net.Here(b3.ep.Addr4)
	talk(b3, a)
}

// The first datagram of a new endpoint arrives, though the channel that it takes lets in only what
// comes from endpoints that the other host knows.
func TestFirstDatagram(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b := w.alpha.attach(2), w.beta.attach(3)
	b.serve()
	c, err := a.dial(b.ep.Addr4)
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	w.echo(c, "the channel is up")
	w.is(channel.Direct)
	w.alpha.opened(b.ep.Addr4)
	var to net.PacketConn
	qt.Assert(t, qt.IsNil(b.Do(func() (err error) {
		to, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", ":9")
		return err
	})))
	defer to.Close()
	for i := range byte(200) {
		n := w.alpha.attach(10 + i)
		var from net.PacketConn
		qt.Assert(t, qt.IsNil(n.Do(func() (err error) {
			from, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", ":0")
			return err
		})))
		_, err := from.WriteTo([]byte{i}, &net.UDPAddr{IP: b.ep.Addr4.AsSlice(), Port: 9})
		qt.Assert(t, qt.IsNil(errors.Join(err, from.Close())))
		got := make([]byte, 9)
		qt.Assert(t, qt.IsNil(to.SetReadDeadline(time.Now().Add(20*time.Second))))
		size, at, err := to.ReadFrom(got)
		qt.Assert(t, qt.IsNil(err), qt.Commentf("the datagram of endpoint %d", i))
		qt.Check(t, qt.DeepEquals(got[:size], []byte{i}))
		qt.Check(t, qt.Equals(at.(*net.UDPAddr).IP.String(), n.ep.Addr4.String())) //nolint:forcetypeassert // it is
	}
}

// What is sent to an endpoint that was withdrawn, as one that moves is, waits at its senders' hosts and at
// its own, and arrives when the endpoint is there again. Nobody is told that it can't be reached.
func TestWithdrawn(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	a, b, near := w.alpha.attach(2), w.beta.attach(66), w.beta.attach(67)
	b.serve()
	senders := map[string]net.Conn{}
	for name, from := range map[string]app{"the other host": a, "its own": near} {
		c, err := from.dial(b.ep.Addr4)
		qt.Assert(t, qt.IsNil(err))
		w.echo(c, "there is a way")
		c.Close()
		qt.Assert(t, qt.IsNil(from.Do(func() (err error) {
			senders[name], err = net.Dial("udp4", netip.AddrPortFrom(b.ep.Addr4, 9).String())
			return err
		})))
		defer senders[name].Close()
	}
	w.alpha.opened(b.ep.Addr4)
	var to net.PacketConn
	qt.Assert(t, qt.IsNil(b.Do(func() (err error) {
		to, err = net.ListenPacket("udp4", ":9")
		return err
	})))
	defer to.Close()

	w.mu.Lock()
	w.beta.away = map[netip.Addr]bool{b.ep.Addr4: true, b.ep.Addr6: true}
	w.mu.Unlock()
	qt.Assert(t, qt.IsNil(w.beta.f.Isolate(t.Context(), b.ep)))
	send := func() {
		for name, c := range senders {
			_, err := c.Write([]byte(name))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(c.SetReadDeadline(time.Now().Add(300*time.Millisecond))))
			_, err = c.Read(make([]byte, 1))
			qt.Assert(t, qt.ErrorIs(err, os.ErrDeadlineExceeded), qt.Commentf("%s is told", name))
		}
	}
	send() // the other host has its route yet
	w.beta.net.Left(b.ep.Addr4)
	w.alpha.awaitRoute(b.ep.Addr4, false)
	send()
	_, err := resolverOf{w.beta.net, w.beta.net.resolver}.Resolve(t.Context(), slowpath.Query{Source: a.ep.Addr4, Destination: b.ep.Addr4})
	qt.Check(t, qt.ErrorIs(err, slowpath.ErrStray))
	late := make(chan error, 2)
	for _, from := range []app{a, near} { // clients that come meanwhile
		go func() {
			c, err := from.dial(b.ep.Addr4)
			if err == nil {
				err = c.Close()
			}
			late <- err
		}()
	}
	send()
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Check(t, qt.Equals(p.net.Snapshot().Unreachable, uint64(0)))
	}
	w.mu.Lock()
	w.beta.away = nil
	w.mu.Unlock()
	qt.Assert(t, qt.IsNil(w.beta.f.Attach(t.Context(), b.ep, b.NS)))
	w.beta.net.Here(b.ep.Addr4)
	got := map[string]bool{}
	for buf := make([]byte, 100); !got["the other host"] || !got["its own"]; {
		qt.Assert(t, qt.IsNil(to.SetReadDeadline(time.Now().Add(20*time.Second))))
		n, _, err := to.ReadFrom(buf)
		qt.Assert(t, qt.IsNil(err))
		got[string(buf[:n])] = true
	}
	qt.Check(t, qt.IsNil(errors.Join(<-late, <-late)))
}
