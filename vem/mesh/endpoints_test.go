package mesh

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
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
