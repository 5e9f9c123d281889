package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// answerTime is how long an answer may take, a wake included.
const answerTime = 30 * time.Second

// actor runs testenv/cmd/actor as an app that serves TCP and UDP at port 7000;
// see there.
func (w *World) actor(req *api.RunRequest, args ...string) *api.App {
	w.t.Helper()
	path, err := w.Install(w.t.Context(), "actor")
	qt.Assert(w.t, qt.IsNil(err))
	req.Args = append([]string{path, "--tcp", ":7000", "--udp", ":7000"}, args...)
	return w.Run(req)
}

// caller is a connection to an actor.
type caller struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func newCaller(t *testing.T, conn net.Conn) *caller {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	return &caller{t, conn, bufio.NewReader(conn)}
}

// caller connects to an actor as soon as it listens.
func (w *World) caller(endpoint string) *caller {
	w.t.Helper()
	return newCaller(w.t, w.Connect(endpoint, 7000))
}

func (c *caller) send(format string, args ...any) {
	c.t.Helper()
	_, err := fmt.Fprintf(c.conn, format+"\n", args...)
	qt.Assert(c.t, qt.IsNil(err))
}

func (c *caller) answer() string {
	c.t.Helper()
	qt.Assert(c.t, qt.IsNil(c.conn.SetReadDeadline(time.Now().Add(answerTime))))
	line, err := c.in.ReadString('\n')
	qt.Assert(c.t, qt.IsNil(err))
	return strings.TrimSpace(line)
}

func (c *caller) ask(format string, args ...any) string {
	c.t.Helper()
	c.send(format, args...)
	return c.answer()
}

// close closes the connection now.
func (c *caller) close() {
	c.t.Helper()
	qt.Assert(c.t, qt.IsNil(c.conn.Close()))
}

// asleepTime is how long a held app is looked at that must not wake: a watcher
// looks at traffic within milliseconds.
const asleepTime = 300 * time.Millisecond

// Asleep proves that what has just happened does not wake a held app.
func (w *World) Asleep(app string) {
	w.t.Helper()
	done := time.NewTimer(asleepTime)
	defer done.Stop()
	tick := time.NewTicker(asleepTime / 10)
	defer tick.Stop()
	for {
		qt.Assert(w.t, qt.Equals(w.Show(app).GetStatus(), api.Status_STATUS_HELD))
		select {
		case <-tick.C:
		case <-done.C:
			return
		}
	}
}

// datagram sends a datagram to an actor and returns the connection that the
// answer comes to.
func (w *World) datagram(address, text string) net.Conn {
	w.t.Helper()
	conn, err := w.DialContext(w.t.Context(), "udp", address)
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { _ = conn.Close() })
	_, err = conn.Write([]byte(text))
	qt.Assert(w.t, qt.IsNil(err))
	return conn
}

// echoed reads the answer to a datagram.
func echoed(t *testing.T, conn net.Conn) string {
	t.Helper()
	qt.Assert(t, qt.IsNil(conn.SetReadDeadline(time.Now().Add(answerTime))))
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	qt.Assert(t, qt.IsNil(err))
	return string(buf[:n])
}
