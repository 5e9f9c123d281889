package redirect_test

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
)

// Another kind and another cable, under traffic: no byte and no datagram is lost.
func TestSwitch(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24", "2001:db8::/64")
	w.use(0, channel.Direct)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	serve(t, b)
	four, six := load(t, a, b.ep.Addr4), load(t, a, b.ep.Addr6)
	for range 3 {
		for _, kind := range []channel.Kind{channel.Tunnel, channel.Direct} {
			for n := range w.cables {
				w.use(n, kind)
				moved(t, four, 1<<20)
				moved(t, six, 1<<20)
			}
		}
	}
	stop(t, four)
	stop(t, six)
}

// A cable is cut, and the channel goes on by another one: connections only pause.
func TestCut(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24", "198.51.100.0/24")
	w.use(0, channel.Tunnel)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	serve(t, b)
	l := loadStreams(t, a, b.ep.Addr4)
	moved(t, l, 1<<20)
	qt.Assert(t, qt.IsNil(w.cables[0].Cut()))
	w.use(1, channel.Tunnel)
	moved(t, l, 1<<20)
	qt.Assert(t, qt.IsNil(w.cables[0].Delete()))
	moved(t, l, 1<<20)
	stop(t, l)
}

// The daemons end and start again under traffic, which does not notice; between the end and
// the start it goes on.
func TestRestart(t *testing.T) {
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, "192.0.2.0/24")
			w.use(0, kind)
			a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
			serve(t, b)
			four, six := load(t, a, b.ep.Addr4), load(t, a, b.ep.Addr6)
			for range 3 {
				for _, p := range []*place{w.alpha, w.beta} {
					p.close(t)
					moved(t, four, 1<<20)
					moved(t, six, 1<<20)
					p.open(t)
					moved(t, four, 1<<20)
					qt.Assert(t, qt.IsNil(p.m.SetUnderlay(t.Context(), w.underlay(p))))
					moved(t, six, 1<<20)
				}
			}
			stop(t, four)
			stop(t, six)
		})
	}
}

// A route that is being opened is for the slow path's packets only, which here nobody sends:
// an app gets the answer that the fabric gives for an address that nobody has.
func TestOpening(t *testing.T) {
	w := newWorld(t, "192.0.2.0/24")
	w.use(0, channel.Tunnel)
	a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
	serve(t, b)
	w.route(w.beta, b.ep, channel.Opening)
	_, err := a.DialContext(t.Context(), "tcp", b.ep.Addr4.String()+":7")
	qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
	w.route(w.beta, b.ep, channel.Open)
	c, err := a.DialContext(t.Context(), "tcp", b.ep.Addr4.String()+":7")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(c.Close()))
	qt.Assert(t, qt.IsNil(w.alpha.m.RemoveHost(t.Context(), "beta")))
	_, err = a.DialContext(t.Context(), "tcp", b.ep.Addr4.String()+":7")
	qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
}
