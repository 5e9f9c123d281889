package idle_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/idle"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/wake"
)

const (
	appAddr  = "10.77.0.7"
	userAddr = "10.77.0.1"
	probe    = "10.77.0.2" // ignored
)

// world is an app's namespace and one of others, with a link between them.
type world struct {
	t           *testing.T
	app, others *netns.NS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Need(t, testenv.Root)
	w := &world{t: t}
	for _, ns := range []**netns.NS{&w.app, &w.others} {
		made, err := netns.New()
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { made.Close() })
		*ns = made
	}
	w.in(w.app, func() error { return up("lo") })
	w.in(w.others, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		return w.app.Do(func() error {
			here, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer here.Close()
			return w.others.Do(func() error { return netlink.LinkSetNsFd(peer, int(here.Fd())) })
		})
	})
	w.in(w.app, func() error { return up("peer", appAddr) })
	w.in(w.others, func() error { return up("eth0", userAddr, probe) })
	return w
}

func up(device string, addrs ...string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		ip := &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(24, 32)}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func (w *world) in(ns *netns.NS, fn func() error) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(ns.Do(fn)))
}

// listen makes a listener in the app.
func (w *world) listen() net.Listener {
	w.t.Helper()
	var l net.Listener
	w.in(w.app, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(w.t.Context(), "tcp4", appAddr+":0")
		return err
	})
	w.t.Cleanup(func() { l.Close() })
	return l
}

// dial connects from an address of the others.
func (w *world) dial(from, network, to string) net.Conn {
	w.t.Helper()
	ip := net.ParseIP(from)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}, Timeout: 10 * time.Second}
	if network == "udp4" {
		d.LocalAddr = &net.UDPAddr{IP: ip}
	}
	var c net.Conn
	w.in(w.others, func() (err error) {
		c, err = d.DialContext(w.t.Context(), network, to)
		return err
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

func (w *world) meter(policy wake.Policy) *idle.Meter {
	w.t.Helper()
	m, err := idle.NewMeter(w.t.Context(), idle.Options{
		NS: w.app, Device: "peer", Own: []netip.Addr{netip.MustParseAddr(appAddr)}, Policy: policy,
	})
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { qt.Check(w.t, qt.IsNil(m.Close())) })
	return m
}

func (w *world) look(m *idle.Meter) idle.Look {
	w.t.Helper()
	l, err := m.Look(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	return l
}

// until looks until a look is as wanted.
func (w *world) until(m *idle.Meter, what string, want func(idle.Look) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	for {
		l := w.look(m)
		if want(l) {
			return
		}
		qt.Assert(w.t, qt.IsNil(ctx.Err()), qt.Commentf("want %s, have %+v", what, l))
		tick()
	}
}

// tick lets the kernel's clock go on, which tells what came after what: the longest tick
// that kernels have is 10 ms (CONFIG_HZ).
func tick() {
	time.Sleep(20 * time.Millisecond) //nolint:forbidigo // only time makes a clock go on
}

func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { c.Close() })
	return c
}

// say writes, and returns when the other side has it.
func say(t *testing.T, from, to net.Conn) {
	t.Helper()
	_, err := from.Write([]byte("x"))
	qt.Assert(t, qt.IsNil(err))
	_, err = to.Read(make([]byte, 9))
	qt.Assert(t, qt.IsNil(err))
}

var ignoreProbe = wake.Policy{Ignore: []netip.Prefix{netip.MustParsePrefix("::ffff:" + probe + "/128")}}

// TestTraffic tells what counts as traffic: of connections that have ended again before
// anybody looks, too.
func TestTraffic(t *testing.T) {
	for name, test := range map[string]struct {
		from   string
		policy wake.Policy
		say    bool
		want   bool
	}{
		"request":                {userAddr, wake.Policy{}, true, true},
		"request beside ignored": {userAddr, ignoreProbe, true, true},
		"request of ignored":     {probe, ignoreProbe, true, false},
		"connect and hang up":    {userAddr, wake.Policy{}, false, false},
	} {
		t.Run(name+", short", func(t *testing.T) {
			w := newWorld(t)
			l := w.listen()
			m := w.meter(test.policy)
			c := w.dial(test.from, "tcp4", l.Addr().String())
			s := accept(t, l)
			if test.say {
				say(t, c, s)
				say(t, s, c)
			}
			qt.Assert(t, qt.IsNil(c.Close()))
			_, err := s.Read(make([]byte, 1))
			qt.Assert(t, qt.IsNotNil(err)) // the end has come
			qt.Assert(t, qt.IsNil(s.Close()))
			qt.Assert(t, qt.Equals(w.look(m).Traffic, test.want))
			qt.Assert(t, qt.IsFalse(w.look(m).Traffic)) // and not again
		})
		t.Run(name+", kept", func(t *testing.T) {
			w := newWorld(t)
			l := w.listen()
			c := w.dial(test.from, "tcp4", l.Addr().String())
			s := accept(t, l)
			m := w.meter(test.policy)
			if test.say {
				say(t, c, s)
				say(t, s, c)
			}
			qt.Assert(t, qt.Equals(w.look(m).Traffic, test.want))
		})
		if !test.say {
			continue
		}
		t.Run(name+", datagram", func(t *testing.T) {
			w := newWorld(t)
			var s net.PacketConn
			w.in(w.app, func() (err error) {
				s, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", appAddr+":0")
				return err
			})
			defer s.Close()
			m := w.meter(test.policy)
			c := w.dial(test.from, "udp4", s.LocalAddr().String())
			for range 2 { // a request, and then an answer
				_, err := c.Write([]byte("x"))
				qt.Assert(t, qt.IsNil(err))
				_, from, err := s.ReadFrom(make([]byte, 9))
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.Equals(w.look(m).Traffic, test.want))
				_, err = s.WriteTo([]byte("y"), from)
				qt.Assert(t, qt.IsNil(err))
				_, err = c.Read(make([]byte, 9))
				qt.Assert(t, qt.IsNil(err))
				qt.Assert(t, qt.Equals(w.look(m).Traffic, test.want))
			}
		})
	}
}

// TestWaiting tells who waits for the app.
func TestWaiting(t *testing.T) {
	waits := func(kind idle.WaitKind) func(idle.Look) bool {
		return func(l idle.Look) bool {
			if kind == 0 {
				return len(l.Waiting) == 0
			}
			return len(l.Waiting) == 1 && l.Waiting[0].Kind == kind
		}
	}
	t.Run("answer", func(t *testing.T) {
		w := newWorld(t)
		l := w.listen()
		m := w.meter(wake.Policy{})
		c := w.dial(userAddr, "tcp4", l.Addr().String())
		w.until(m, "accept", waits(idle.Accept))
		s := accept(t, l)
		w.until(m, "nothing", waits(0))
		_, err := c.Write([]byte("x"))
		qt.Assert(t, qt.IsNil(err))
		w.until(m, "read", waits(idle.Read))
		tick()
		say(t, c, s)
		w.until(m, "answer", waits(idle.Answer))
		qt.Assert(t, qt.Equals(w.look(m).Waiting[0].Remote.String(), c.LocalAddr().String()))
		tick()
		say(t, s, c)
		w.until(m, "nothing", waits(0))
	})
	t.Run("answer to a request in the tick of the handshake", func(t *testing.T) {
		w := newWorld(t)
		l := w.listen()
		m := w.meter(wake.Policy{})
		for range 20 { // at least one of them has both within a tick
			c := w.dial(userAddr, "tcp4", l.Addr().String())
			_, err := c.Write([]byte("x"))
			qt.Assert(t, qt.IsNil(err))
			s := accept(t, l)
			_, err = s.Read(make([]byte, 9))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsTrue(waits(idle.Answer)(w.look(m))))
			tick()
			say(t, s, c)
			w.until(m, "nothing", waits(0))
		}
	})
	t.Run("ignored", func(t *testing.T) {
		w := newWorld(t)
		l := w.listen()
		m := w.meter(ignoreProbe)
		c := w.dial(probe, "tcp4", l.Addr().String())
		_, err := c.Write([]byte("x"))
		qt.Assert(t, qt.IsNil(err))
		s := accept(t, l)
		tick()
		say(t, c, s)
		qt.Assert(t, qt.HasLen(w.look(m).Waiting, 0))
	})
	t.Run("of the app itself", func(t *testing.T) {
		w := newWorld(t)
		l := w.listen()
		m := w.meter(wake.Policy{})
		var c net.Conn
		w.in(w.app, func() (err error) {
			c, err = (&net.Dialer{}).DialContext(t.Context(), "tcp4", l.Addr().String())
			return err
		})
		defer c.Close()
		tick()
		_, err := c.Write([]byte("x"))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(w.look(m).Waiting, 0))
	})
	t.Run("the app's own request", func(t *testing.T) {
		w := newWorld(t)
		var l net.Listener
		w.in(w.others, func() (err error) {
			l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp4", userAddr+":0")
			return err
		})
		defer l.Close()
		m := w.meter(wake.Policy{})
		var c net.Conn
		w.in(w.app, func() (err error) {
			c, err = (&net.Dialer{}).DialContext(t.Context(), "tcp4", l.Addr().String())
			return err
		})
		defer c.Close()
		s := accept(t, l)
		tick()
		say(t, s, c) // what it is told by a server it need not answer
		qt.Assert(t, qt.HasLen(w.look(m).Waiting, 0))
	})
}
