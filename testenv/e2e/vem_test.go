package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// Held waits until the app is held, by itself.
func (w *World) Held(app string) {
	w.t.Helper()
	w.Until(app+" is held", func() error {
		if a := w.Show(app); a.GetStatus() != api.Status_STATUS_HELD {
			return fmt.Errorf("it is %s (%s)", a.GetStatus(), a.GetError())
		}
		return nil
	})
}

// TestHibernateAfter has an app hibernate by itself when nobody talks to it,
// though somebody is connected, and not before.
func TestHibernateAfter(t *testing.T) {
	const after = 1500 * time.Millisecond
	w := New(t)
	w.actor(&api.RunRequest{Name: "idle", Endpoint: actorEndpoint, HibernateAfter: durationpb.New(after)})
	c := w.caller(actorEndpoint)
	// Its keepalives are no traffic.
	qt.Assert(t, qt.IsNil(c.conn.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: time.Second, Interval: time.Second, Count: 3,
	})))
	for range 2 {
		tick := time.NewTicker(after / 10)
		for began := time.Now(); time.Since(began) < 2*after; <-tick.C {
			qt.Assert(t, qt.Equals(c.ask("echo active"), "active"))
			qt.Assert(t, qt.Equals(w.Show("idle").GetStatus(), api.Status_STATUS_RUNNING))
		}
		tick.Stop()
		quiet := time.Now()
		w.Held("idle")
		qt.Assert(t, qt.IsTrue(time.Since(quiet) > after/2))
		w.Asleep("idle")
		qt.Assert(t, qt.Equals(c.ask("echo woken"), "woken"))
		w.Running("idle")
	}
}

// Addresses of the cable between the host and the outside.
const (
	hostOutside  = "192.0.2.1"
	otherOutside = "192.0.2.2"
)

// outside links another host to the world's.
func (w *World) outside() *host.Host {
	w.t.Helper()
	other := host.New(w.t, host.Config{Name: "outside"})
	_, err := w.Link(w.t.Context(), other, netip.MustParsePrefix("192.0.2.0/24"))
	qt.Assert(w.t, qt.IsNil(err))
	return other
}

// from connects from a host.
func (w *World) from(h *host.Host, network, address string) *caller {
	w.t.Helper()
	var conn net.Conn
	w.Until("connect to "+address, func() (err error) {
		conn, err = h.DialContext(w.t.Context(), network, address)
		return err
	})
	return newCaller(w.t, conn)
}

// TestPublish reaches an app at addresses of its host, from there and from
// outside, also while it is held.
func TestPublish(t *testing.T) {
	w := New(t)
	outside := w.outside()
	w.actor(&api.RunRequest{
		Name: "web", Endpoint: actorEndpoint,
		Publish: []*api.Publication{{Protocol: "tcp", HostPort: 8080, Port: 7000}, {Protocol: "udp", HostPort: 8080, Port: 7000}},
	})
	far := w.from(outside, "tcp", hostOutside+":8080")
	near := w.from(w.Host, "tcp", hostOutside+":8080")
	local := w.from(w.Host, "tcp", "127.0.0.1:8080")
	for round := range 2 {
		for name, c := range map[string]*caller{"far": far, "near": near, "local": local} {
			qt.Assert(t, qt.Equals(c.ask("echo %s %d", name, round), fmt.Sprint(name, " ", round)))
		}
		seen, err := netip.ParseAddrPort(far.ask("peer"))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(seen.Addr().Unmap().String(), otherOutside))

		w.Hibernate("web")
		fresh := w.from(outside, "tcp", hostOutside+":8080")
		w.Asleep("web")
		qt.Assert(t, qt.Equals(fresh.ask("echo fresh"), "fresh"))
		w.Running("web")

		w.Hibernate("web")
		datagram, err := outside.DialContext(t.Context(), "udp", hostOutside+":8080")
		qt.Assert(t, qt.IsNil(err))
		defer datagram.Close()
		_, err = datagram.Write([]byte("far"))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(echoed(t, datagram), "echo far"))
		w.Running("web")
	}
	// One that has an address is not at others.
	w.actor(&api.RunRequest{Name: "bound", Publish: []*api.Publication{
		{HostAddress: hostOutside, HostPort: 8081, Port: 7000}, {HostAddress: "127.0.0.1", HostPort: 8082, Port: 7000},
	}})
	qt.Assert(t, qt.Equals(w.from(outside, "tcp", hostOutside+":8081").ask("echo far"), "far"))
	qt.Assert(t, qt.Equals(w.from(w.Host, "tcp", "127.0.0.1:8082").ask("echo local"), "local"))
	_, err := w.DialContext(t.Context(), "tcp", "127.0.0.1:8081")
	qt.Assert(t, qt.ErrorIs(err, syscall.ECONNREFUSED))
	_, err = outside.DialContext(t.Context(), "tcp", hostOutside+":8082")
	qt.Assert(t, qt.ErrorIs(err, syscall.ECONNREFUSED))

	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "web", Force: true})))
	for _, h := range []*host.Host{outside, w.Host} {
		_, err := h.DialContext(t.Context(), "tcp", hostOutside+":8080")
		qt.Assert(t, qt.ErrorIs(err, syscall.ECONNREFUSED))
	}
}

// TestPublishConflict publishes a port twice, and again when it is free.
func TestPublishConflict(t *testing.T) {
	w := New(t)
	publish := []*api.Publication{{Protocol: "tcp", HostPort: 8080, Port: 7000}}
	w.actor(&api.RunRequest{Name: "one", Publish: publish})
	_, err := w.API.Run(t.Context(), &api.RunRequest{Name: "two", Args: []string{"true"}, Publish: publish})
	qt.Assert(t, qt.ErrorMatches(err, `.*8080/tcp.*app one has it.*`))
	w.Hibernate("one") // still has it
	_, err = w.API.Run(t.Context(), &api.RunRequest{Name: "two", Args: []string{"true"}, Publish: publish})
	qt.Assert(t, qt.ErrorMatches(err, `.*8080/tcp.*app one has it.*`))
	qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: "one", Force: true})))
	w.actor(&api.RunRequest{Name: "two", Publish: publish})
	qt.Assert(t, qt.Equals(w.from(w.Host, "tcp", "127.0.0.1:8080").ask("echo two"), "two"))
}

// TestAppsAndOutside has apps talk to each other, to the host, and through it
// to the outside.
func TestAppsAndOutside(t *testing.T) {
	w := New(t)
	outside := w.outside()
	for name, try := range map[string]func(w *World, a *caller){
		"app to app": func(w *World, a *caller) {
			b := w.Show("b")
			for _, address := range []string{"10.77.0.32:7000", net.JoinHostPort(b.GetEndpoint6(), "7000")} {
				qt.Assert(w.t, qt.Equals(a.ask("dial tcp %s echo hello", address), "hello"))
				qt.Assert(w.t, qt.Equals(a.ask("dial udp %s hello", address), "echo hello"))
				w.Hibernate("b")
				qt.Assert(w.t, qt.Equals(a.ask("dial tcp %s echo hello", address), "hello"))
				w.Running("b")
			}
			peer := a.ask("dial tcp 10.77.0.32:7000 peer")
			seen, err := netip.ParseAddrPort(peer)
			qt.Assert(w.t, qt.IsNil(err), qt.Commentf("%s", peer))
			qt.Assert(w.t, qt.Equals(seen.Addr().Unmap().String(), "10.77.0.31"))
		},
		"both held": func(w *World, a *caller) {
			// The connection between them sleeps with both.
			qt.Assert(w.t, qt.Matches(a.ask("open tcp 10.77.0.32:7000"), `10\.77\.0\.31:\d+`))
			w.Hibernate("a")
			w.Hibernate("b")
			w.Asleep("a")
			w.Asleep("b")
			qt.Assert(w.t, qt.Equals(a.ask("dial tcp 10.77.0.32:7000 echo both"), "both"))
			w.Running("a")
			w.Running("b")
		},
		"outside": func(w *World, a *caller) {
			l, err := outside.Listen(w.t.Context(), "tcp", otherOutside+":9000")
			qt.Assert(w.t, qt.IsNil(err))
			defer l.Close()
			qt.Assert(w.t, qt.Matches(a.ask("open tcp %s:9000", otherOutside), `10\.77\.0\.31:\d+`))
			conn, err := l.Accept()
			qt.Assert(w.t, qt.IsNil(err))
			far := newCaller(w.t, conn)
			from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
			qt.Assert(w.t, qt.IsNil(err))
			qt.Assert(w.t, qt.Equals(from.Addr().String(), hostOutside)) // NAT
			qt.Assert(w.t, qt.Equals(far.ask("echo out"), "out"))
			w.Hibernate("a")
			w.Asleep("a")
			qt.Assert(w.t, qt.Equals(far.ask("echo woken"), "woken"))
			w.Running("a")
			// The way back is not open: it has no route.
			_, err = outside.DialContext(w.t.Context(), "tcp", "10.77.0.31:7000")
			qt.Assert(w.t, qt.ErrorIs(err, syscall.ENETUNREACH))
		},
		"host": func(w *World, a *caller) {
			l, err := w.Listen(w.t.Context(), "tcp", "10.77.0.1:9000")
			qt.Assert(w.t, qt.IsNil(err))
			defer l.Close()
			qt.Assert(w.t, qt.Matches(a.ask("open tcp 10.77.0.1:9000"), `10\.77\.0\.31:\d+`))
			conn, err := l.Accept()
			qt.Assert(w.t, qt.IsNil(err))
			qt.Assert(w.t, qt.Equals(newCaller(w.t, conn).ask("echo host"), "host"))
		},
		"nobody there": func(w *World, a *caller) {
			qt.Assert(w.t, qt.Matches(a.ask("dial tcp 10.77.0.99:7000 x"), `error: .*(no route to host|unreachable|refused)`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.actor(&api.RunRequest{Name: "a", Endpoint: "10.77.0.31"})
			w.actor(&api.RunRequest{Name: "b", Endpoint: "10.77.0.32"})
			qt.Assert(t, qt.Equals(w.caller("10.77.0.32").ask("echo up"), "up"))
			try(w, w.caller("10.77.0.31"))
		})
	}
}
