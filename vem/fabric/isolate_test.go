package fabric_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
)

// Who is isolated hears nobody and is heard by nobody, whoever looks after the
// network, and is as before once it rejoins.
func TestIsolate(t *testing.T) {
	repeat := func(e fabric.Endpoint) func(*testing.T, *cloned) {
		return func(t *testing.T, w *cloned) { t.Helper(); qt.Assert(t, qt.IsNil(w.f.Isolate(t.Context(), e))) }
	}
	for name, test := range map[string]struct {
		who   string
		e     fabric.Endpoint
		again func(*testing.T, *cloned) // while it is isolated
	}{
		"clone":                  {"c2", clone(2), func(*testing.T, *cloned) {}},
		"clone, twice":           {"c2", clone(2), repeat(clone(2))},
		"clone, after a restart": {"c2", clone(2), reopen},
		"plain, twice":           {"p5", ep(5), repeat(ep(5))},
	} {
		who, e := test.who, test.e
		t.Run(name, func(t *testing.T) {
			w := newCloned(t, testConfig(t))
			self := w.places[who]
			var out []net.Conn // its own conversations
			for _, other := range []string{"host", "c3"} {
				for family := range 2 {
					c, _, err := talk(t, self.ns, "udp", w.places[other].address(family, 80), 10)
					qt.Assert(t, qt.IsNil(err))
					out = append(out, c)
				}
			}
			qt.Assert(t, qt.IsNil(w.f.Isolate(t.Context(), e)))
			for _, c := range out {
				if _, err := c.Write([]byte("lost")); err != nil {
					qt.Assert(t, qt.Equals(who, "p5")) // there is no carrier
				}
			}
			test.again(t, &w)
			unreachable(t, w, who)
			qt.Assert(t, qt.IsNil(w.f.Rejoin(t.Context(), e, self.ns)))
			for _, c := range out {
				if who == "p5" {
					break // a device that was down may lose a datagram when it comes up
				}
				_, err := echo(c, "udp", 20, false)
				qt.Check(t, qt.IsNil(err)) // "lost" would come first
			}
			for _, other := range []string{"host", "c3"} {
				for family := range 2 {
					w.check(t, who, other, "tcp", family, 1000)
					w.check(t, other, who, "tcp", family, 1000)
				}
			}
			qt.Assert(t, qt.IsNil(w.f.Isolate(t.Context(), e)))
			qt.Assert(t, qt.IsNil(w.f.Attach(t.Context(), e, self.ns)))
			w.check(t, "host", who, "tcp", 0, 1000)
			qt.Assert(t, qt.IsNil(w.f.Detach(t.Context(), e)))
			qt.Assert(t, qt.IsNil(w.f.Rejoin(t.Context(), e, self.ns)), qt.Commentf("as Attach does"))
			w.check(t, "host", who, "tcp", 1, 1000)
		})
	}
}

// reopen has the network looked after by another daemon.
func reopen(t *testing.T, w *cloned) {
	t.Helper()
	qt.Assert(t, qt.IsNil(w.f.Close()))
	f, err := fabric.Open(t.Context(), w.cfg)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(f.Close())) })
	w.f = f
}

// unreachable proves that nobody gets to a place.
func unreachable(t *testing.T, w cloned, name string) {
	t.Helper()
	for _, other := range []string{"host", "c3"} {
		for family := range 2 {
			err := w.places[other].ns.Do(func() error {
				d := net.Dialer{Timeout: 20 * time.Second}
				c, err := d.DialContext(t.Context(), "tcp", w.places[name].address(family, 80))
				if err == nil {
					c.Close()
				}
				return err
			})
			told := errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
			qt.Assert(t, qt.IsTrue(told), qt.Commentf("from %s: %v", other, err))
		}
	}
}

// An endpoint that is attached apart has its device, its addresses and its ways, and nobody reaches it before
// it is attached altogether.
func TestApart(t *testing.T) {
	w := newCloned(t, testConfig(t))
	for who, e := range map[string]fabric.Endpoint{"c2": clone(2), "p5": ep(5)} {
		apart := e
		apart.Apart = true
		self := w.places[who]
		qt.Assert(t, qt.IsNil(w.f.Detach(t.Context(), e)))
		for range 2 {
			qt.Assert(t, qt.IsNil(w.f.Attach(t.Context(), apart, self.ns)))
			unreachable(t, w, who)
		}
		qt.Assert(t, qt.IsNil(w.f.Attach(t.Context(), e, self.ns)))
		for family := range 2 {
			w.check(t, "host", who, "tcp", family, 1000)
			w.check(t, "c3", who, "tcp", family, 1000)
		}
	}
}

// TestApartIsMute finds that nothing gets out of an endpoint that is attached apart, or isolated: what its app
// sends in its last moments here, or the kernel for it, would tell others what is not so any more.
func TestApartIsMute(t *testing.T) {
	for who, e := range map[string]fabric.Endpoint{"c2": clone(2), "p5": ep(5)} {
		for name, cut := range map[string]func(*testing.T, cloned){
			"isolated": func(t *testing.T, w cloned) { t.Helper(); qt.Assert(t, qt.IsNil(w.f.Isolate(t.Context(), e))) },
			"apart": func(t *testing.T, w cloned) {
				t.Helper()
				apart := e
				apart.Apart = true
				qt.Assert(t, qt.IsNil(w.f.Detach(t.Context(), e)))
				qt.Assert(t, qt.IsNil(w.f.Attach(t.Context(), apart, w.places[who].ns)))
			},
		} {
			t.Run(who+" "+name, func(t *testing.T) {
				w := newCloned(t, testConfig(t))
				self := w.places[who]
				cut(t, w)
				for _, other := range []string{"host", "c3"} {
					for family := range 2 {
						to := w.places[other].address(family, 4321)
						var heard net.PacketConn
						var out net.Conn
						qt.Assert(t, qt.IsNil(w.places[other].ns.Do(func() (err error) {
							heard, err = net.ListenPacket("udp", ":4321")
							return err
						})))
						qt.Assert(t, qt.IsNil(self.ns.Do(func() (err error) {
							out, err = net.Dial("udp", to)
							return err
						})))
						_, _ = out.Write([]byte("mute"))
						qt.Assert(t, qt.IsNil(heard.SetReadDeadline(time.Now().Add(50*time.Millisecond))))
						b := make([]byte, 10)
						n, _, err := heard.ReadFrom(b)
						qt.Check(t, qt.IsNotNil(err), qt.Commentf("%s hears %q, family %d", other, b[:n], family))
						_ = heard.Close()
						_ = out.Close()
					}
				}
			})
		}
	}
}
