package wireguard_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel/wireguard"
)

// The port that other hosts are told stays this host's: nobody else gets it before the device does.
func TestOfferedPort(t *testing.T) { everywhere(t, testOfferedPort) }

func testOfferedPort(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
	port, key, err := w.beta.m.Offer(t.Context())
	qt.Assert(t, qt.IsNil(err))
	taken := func() error {
		return w.beta.Net().Do(func() error {
			c, err := new(net.ListenConfig).ListenPacket(context.WithoutCancel(t.Context()), "udp", fmt.Sprintf(":%d", port))
			if err == nil {
				err = c.Close()
			}
			return err
		})
	}
	qt.Check(t, qt.ErrorIs(taken(), error(unix.EADDRINUSE)))
	again, sameKey, err := w.beta.m.Offer(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again, port))
	qt.Check(t, qt.DeepEquals(sameKey, key))

	w.use(0) // the device takes it
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	l := load(t, a, b.ep.Addr4, streams)
	moved(t, l, 1<<18)
	stop(t, l)
	again, _, err = w.beta.m.Offer(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again, port))
	qt.Check(t, qt.ErrorIs(taken(), error(unix.EADDRINUSE)))

	qt.Assert(t, qt.IsNil(w.beta.m.RemoveHost(t.Context(), "alpha")))
	_, _, err = w.beta.m.Offer(t.Context())
	qt.Assert(t, qt.IsNil(err))
	w.beta.close(t)
	qt.Check(t, qt.IsNil(taken())) // nothing is left
	w.beta.open(t)
}
