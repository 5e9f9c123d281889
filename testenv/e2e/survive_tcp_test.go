package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
)

// States of include/net/tcp_states.h.
const (
	established = 1
	synSent     = 2
	finWait1    = 4
	finWait2    = 5
	closeWait   = 8
	lastAck     = 9
	closing     = 11
)

// connection is one between a survivor's socket "c" and the host.
type connection struct {
	*survivor
	w    *World
	peer *net.TCPConn
	sent int // bytes that the survivor has written into full buffers
}

func (c *connection) state(want int) {
	c.t.Helper()
	c.w.Until(fmt.Sprintf("TCP state %d", want), func() error {
		if got := c.ask("tcp state c"); got != strconv.Itoa(want) {
			return fmt.Errorf("state %s", got)
		}
		return nil
	})
}

// fill has the survivor write until nothing more fits.
func (c *connection) fill() {
	c.t.Helper()
	var err error
	c.sent, err = strconv.Atoi(c.ask("tcp fill c"))
	qt.Assert(c.t, qt.IsNil(err))
	qt.Assert(c.t, qt.IsTrue(c.sent > 1<<16))
}

// filled reads what fill wrote and compares every number.
func (c *connection) filled() {
	c.t.Helper()
	qt.Assert(c.t, qt.IsNil(c.peer.SetDeadline(time.Now().Add(30*time.Second))))
	got := make([]byte, c.sent)
	_, err := io.ReadFull(c.peer, got)
	qt.Assert(c.t, qt.IsNil(err))
	for at := 0; at+8 <= len(got); at += 8 {
		if n := binary.BigEndian.Uint64(got[at:]); n != uint64(at) {
			c.t.Fatalf("number %d at %d", n, at)
		}
	}
}

func (c *connection) send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.peer, text)
	qt.Assert(c.t, qt.IsNil(err))
}

func (c *connection) receive(want string) {
	c.t.Helper()
	qt.Assert(c.t, qt.IsNil(c.peer.SetDeadline(time.Now().Add(30*time.Second))))
	got := make([]byte, len(want))
	_, err := io.ReadFull(c.peer, got)
	qt.Assert(c.t, qt.IsNil(err))
	qt.Assert(c.t, qt.Equals(string(got), want))
}

// ended reads the end of the survivor's stream.
func (c *connection) ended() {
	c.t.Helper()
	_, err := c.peer.Read(make([]byte, 1))
	qt.Assert(c.t, qt.ErrorIs(err, io.EOF))
}

func (c *connection) finish() {
	c.t.Helper()
	qt.Assert(c.t, qt.IsNil(c.peer.CloseWrite()))
}

// tcpStates bring a connection into a state, and prove later that nothing of it
// was lost.
func tcpStates() map[string]struct{ before, after func(c *connection) } {
	return map[string]struct{ before, after func(c *connection) }{
		"ESTABLISHED with unread and unsent data": {
			func(c *connection) { c.send("unread"); c.fill(); c.state(established) },
			func(c *connection) {
				c.state(established)
				c.ok("tcp read c unread")
				c.filled()
				c.ok("tcp write c more")
				c.receive("more")
			},
		},
		"CLOSE_WAIT with unread data": {
			func(c *connection) { c.send("unread"); c.finish(); c.state(closeWait) },
			func(c *connection) {
				c.state(closeWait)
				c.ok("tcp read c unread")
				c.ok("tcp end c")
				c.ok("tcp write c answer")
				c.ok("tcp shutdown c")
				c.receive("answer")
				c.ended()
			},
		},
		"FIN_WAIT1": {
			func(c *connection) { c.fill(); c.ok("tcp shutdown c"); c.state(finWait1) },
			func(c *connection) {
				c.state(finWait1)
				c.send("answer")
				c.filled()
				c.ended()
				c.ok("tcp read c answer")
				c.state(finWait2)
			},
		},
		"FIN_WAIT2": {
			func(c *connection) { c.ok("tcp write c last"); c.ok("tcp shutdown c"); c.state(finWait2) },
			func(c *connection) {
				c.state(finWait2)
				c.receive("last")
				c.ended()
				c.send("answer")
				c.finish()
				c.ok("tcp read c answer")
				c.ok("tcp end c")
			},
		},
		"LAST_ACK": {
			func(c *connection) {
				c.fill()
				c.finish()
				c.state(closeWait)
				c.ok("tcp shutdown c")
				c.state(lastAck)
			},
			func(c *connection) { c.state(lastAck); c.ok("tcp end c"); c.filled(); c.ended() },
		},
		"CLOSING": {
			func(c *connection) { c.fill(); c.ok("tcp shutdown c"); c.state(finWait1); c.finish(); c.state(closing) },
			func(c *connection) { c.state(closing); c.ok("tcp end c"); c.filled(); c.ended() },
		},
		"closed with unsent data": {
			func(c *connection) { c.fill(); c.ok("tcp close c") },
			func(c *connection) { c.filled(); c.ended() },
		},
	}
}

// tcpOrdeals are the ordeals, and that of going on while a snapshot is taken.
func tcpOrdeals(t *testing.T) map[string]func(w *World, app string) {
	t.Helper()
	all := ordeals(t)
	all["snapshot"] = func(w *World, app string) {
		_, err := w.API.TakeSnapshot(w.t.Context(), &api.SnapshotRequest{App: app}, nil)
		qt.Assert(w.t, qt.IsNil(err))
	}
	return all
}

func TestTCPSurvives(t *testing.T) {
	w := New(t)
	for state, do := range tcpStates() {
		for name, ordeal := range tcpOrdeals(t) {
			t.Run(state+"/"+name, func(t *testing.T) {
				w := w.in(t)
				s := w.survivor("survivor")
				s.ok("tcp listen l 7100 5")
				c := &connection{survivor: s, w: w, peer: w.Connect(survivorEndpoint, 7100).(*net.TCPConn)}
				s.ok("tcp accept l c")
				do.before(c)
				ordeal(w, "survivor")
				do.after(c)
			})
		}
	}
}

// TestTCPListenerSurvives has clients that are not accepted: some before the
// app sleeps, some while it does.
func TestTCPListenerSurvives(t *testing.T) {
	w := New(t)
	const clients = 4
	for name, ordeal := range tcpOrdeals(t) {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			s.ok("tcp listen l 7100 10")
			var early []net.Conn
			for i := range clients {
				conn := w.Connect(survivorEndpoint, 7100)
				_, err := fmt.Fprintf(conn, "early%d", i)
				qt.Assert(t, qt.IsNil(err))
				early = append(early, conn)
			}
			ordeal(w, "survivor")
			for i, conn := range early {
				s.ok("tcp accept l c%d", i)
				s.ok("tcp read c%d early%d", i, i)
				s.ok("tcp write c%d answer%d", i, i)
				(&connection{survivor: s, w: w, peer: conn.(*net.TCPConn)}).receive(fmt.Sprintf("answer%d", i))
			}
			late := w.Connect(survivorEndpoint, 7100)
			s.ok("tcp accept l late")
			qt.Assert(t, qt.IsNil(late.Close()))
			s.ok("tcp end late")
		})
	}
}

// TestTCPInsideSurvives has both ends of a connection in the app.
func TestTCPInsideSurvives(t *testing.T) {
	w := New(t)
	for name, ordeal := range tcpOrdeals(t) {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			s.ok("tcp listen l 7100 10")
			s.ok("tcp dial a 127.0.0.1:7100")
			s.ok("tcp accept l b")
			s.ok("tcp write a there")
			s.ok("tcp write b back")
			s.ok("tcp dial waiting %s:7100", survivorEndpoint)
			ordeal(w, "survivor")
			s.ok("tcp read b there")
			s.ok("tcp read a back")
			s.ok("tcp shutdown a")
			s.ok("tcp end b")
			s.ok("tcp accept l c")
			s.ok("tcp write waiting more")
			s.ok("tcp read c more")
		})
	}
}

// TestTCPConnectingSurvives has the app connect to a host that does not answer
// until later.
func TestTCPConnectingSurvives(t *testing.T) {
	w := New(t)
	for name, ordeal := range tcpOrdeals(t) {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			l, port := fullListener(t, w)
			s.ok("tcp dial c %s:%d", gateway, port)
			c := &connection{survivor: s, w: w}
			c.state(synSent)
			ordeal(w, "survivor")
			c.state(synSent)
			for range 2 { // the one that filled the queue, and the app's
				accept(t, l)
			}
			c.state(established)
		})
	}
}

const gateway = "10.77.0.1"

// fullListener listens on the host with a full queue, so that a SYN more is
// dropped.
func fullListener(t *testing.T, w *World) (fd int, port uint16) {
	t.Helper()
	fd = -1
	qt.Assert(t, qt.IsNil(w.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		addr := netip.MustParseAddr(gateway).As4()
		return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: addr}), unix.Listen(fd, 0))
	})))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Close(fd))) })
	name, err := unix.Getsockname(fd)
	qt.Assert(t, qt.IsNil(err))
	port = uint16(name.(*unix.SockaddrInet4).Port)
	w.Connect(gateway, int(port))
	return fd, port
}

// accept waits for a connection and closes it after the test.
func accept(t *testing.T, l int) {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}, 30_000)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(n, 1))
	conn, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Close(conn))) })
}

// TestTCPIsResetInCopy restores a snapshot with connections as another app: its
// listener comes back, its connections are closed.
func TestTCPIsResetInCopy(t *testing.T) {
	w := New(t)
	s := w.survivor("survivor")
	s.ok("tcp listen l 7100 5")
	c := &connection{survivor: s, w: w, peer: w.Connect(survivorEndpoint, 7100).(*net.TCPConn)}
	s.ok("tcp accept l c")
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "saved", As: "copy", Endpoint: copyEndpoint}, nil)
	qt.Assert(t, qt.IsNil(err))

	copied := w.control(copyEndpoint)
	copied.ok("tcp end c")
	w.Connect(copyEndpoint, 7100)
	copied.ok("tcp accept l fresh")
	s.ok("tcp write c still")
	c.receive("still")
}

// TestIPv6Survives has the control connection itself come by IPv6.
func TestIPv6Survives(t *testing.T) {
	w := New(t)
	for name, ordeal := range tcpOrdeals(t) {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.survivor("survivor")
			s := w.control(w.Show("survivor").GetEndpoint6())
			s.ok("setup pipe")
			ordeal(w, "survivor")
			s.ok("check pipe")
			w.control(w.Show("survivor").GetEndpoint6()).ok("setup fifo")
		})
	}
}
