package relocate

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/membership"
)

// The control channel listens where it is told to; what it can't have leaves all as it was.
func TestDoors(t *testing.T) {
	var wait sync.WaitGroup
	d := &Doors{
		Serve: func(l net.Listener) error {
			for {
				c, err := l.Accept()
				if err != nil {
					return err
				}
				_ = c.Close()
			}
		},
		Run: func(f func(context.Context)) { wait.Go(func() { f(t.Context()) }) }, Log: slog.New(slog.DiscardHandler),
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	port := free.Addr().(*net.TCPAddr).AddrPort().Port() //nolint:forcetypeassert // it is
	qt.Assert(t, qt.IsNil(free.Close()))
	place := func(addrs ...string) membership.Place {
		p := membership.Place{Port: port}
		for _, a := range addrs {
			p.Addresses = append(p.Addresses, membership.Address{Addr: netip.MustParseAddr(a)})
		}
		return p
	}
	open := func(addr string) bool {
		c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), port).String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	qt.Assert(t, qt.IsNil(d.Set(t.Context(), place("127.0.0.2", "127.0.0.3", "127.0.0.3"))))
	qt.Check(t, qt.IsTrue(open("127.0.0.2") && open("127.0.0.3")))
	qt.Assert(t, qt.IsNil(d.Set(t.Context(), place("127.0.0.3", "192.0.2.77")))) // which is not there yet
	qt.Check(t, qt.IsTrue(!open("127.0.0.2") && open("127.0.0.3")))

	taken, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.4"), port).String())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.ErrorMatches(d.Set(t.Context(), place("127.0.0.2", "127.0.0.4")), "(?s)open the control channel: .*in use.*"))
	qt.Check(t, qt.IsTrue(!open("127.0.0.2") && open("127.0.0.3")))
	qt.Assert(t, qt.IsNil(taken.Close()))
	qt.Assert(t, qt.IsNil(d.Set(t.Context(), membership.Place{})))
	wait.Wait()
}
