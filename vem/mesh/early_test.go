package mesh

import (
	"net"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
)

// udp opens a socket at port 9 of the app.
func (a app) udp() net.PacketConn {
	t := a.p.w.t
	t.Helper()
	var c net.PacketConn
	qt.Assert(t, qt.IsNil(a.Do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", ":9")
		return err
	})))
	t.Cleanup(func() { c.Close() })
	return c
}

// The host that is asked for a channel has its end of it first, and its apps send at once, before the
// host that asked has heard the answer: nothing of that is lost.
func TestAnswersEarly(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel, channel.VXLAN, channel.WireGuard} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t)
			for _, p := range []*place{w.alpha, w.beta} {
				qt.Assert(t, qt.IsNil(p.SetGiven(t.Context(), "", kind)))
			}
			a, asked, other := w.alpha.attach(2), w.beta.attach(66), w.beta.attach(67)
			here := a.udp()
			qt.Assert(t, qt.IsNil(here.SetReadDeadline(time.Now().Add(20*time.Second))))
			var early []string
			hear := func() {
				b := make([]byte, 100)
				n, from, err := here.ReadFrom(b)
				qt.Check(t, qt.IsNil(err))
				if err == nil {
					early = append(early, from.String()+" "+string(b[:n]))
				}
			}
			senders := []net.PacketConn{asked.udp(), other.udp()}
			w.answered = func() { // the answer waits until these have arrived, if the kind lets them
				for _, c := range senders {
					_, err := c.WriteTo([]byte("early"), &net.UDPAddr{IP: a.ep.Addr4.AsSlice(), Port: 9})
					qt.Check(t, qt.IsNil(err))
					if kind != channel.WireGuard { // no packet of which arrives before the handshake
						hear()
					}
				}
			}
			_, err := here.WriteTo([]byte("first"), &net.UDPAddr{IP: asked.ep.Addr4.AsSlice(), Port: 9})
			qt.Assert(t, qt.IsNil(err))
			b := make([]byte, 100)
			n, _, err := senders[0].ReadFrom(b)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(string(b[:n]), "first"))
			if kind == channel.WireGuard {
				hear()
				hear()
			}
			qt.Check(t, qt.ContentEquals(early, []string{"10.77.0.66:9 early", "10.77.0.67:9 early"}))
			w.is(kind)
		})
	}
}
