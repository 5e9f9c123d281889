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

// redis is a connection that speaks redis's inline protocol.
type redis struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (w *World) redis(endpoint string) *redis {
	conn := w.Connect(endpoint, 6379)
	return &redis{w.t, conn, bufio.NewReader(conn)}
}

func (r *redis) send(command string) {
	r.t.Helper()
	_, err := fmt.Fprintf(r.conn, "%s\r\n", command)
	qt.Assert(r.t, qt.IsNil(err))
}

// line is the next line of an answer.
func (r *redis) line() string {
	r.t.Helper()
	// Longer than anything takes, so that a test that waits in vain says where.
	qt.Assert(r.t, qt.IsNil(r.conn.SetReadDeadline(time.Now().Add(time.Minute))))
	line, err := r.in.ReadString('\n')
	qt.Assert(r.t, qt.IsNil(err))
	return strings.TrimSpace(line)
}

func (r *redis) do(command string) string {
	r.t.Helper()
	r.send(command)
	return r.line()
}

func runRedis(w *World, name, endpoint string) {
	w.t.Helper()
	w.Run(&api.RunRequest{Name: name, Endpoint: endpoint, Args: []string{"redis-server", "--save", "", "--protected-mode", "no"}})
}

func TestRedisHibernatesAndWakesOnTraffic(t *testing.T) {
	w := New(t, "redis-server")
	runRedis(w, "cache", "10.77.0.7")
	old := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(old.do("SET a 1"), "+OK"))
	qt.Assert(t, qt.IsTrue(w.Show("cache").GetMemoryBytes() > 0))

	for round := range 3 {
		r := w.Hibernate("cache")
		qt.Assert(t, qt.Equals(r.GetApp().GetStatus(), api.Status_STATUS_HELD))
		qt.Assert(t, qt.Equals(r.GetApp().GetProcesses(), int32(0)))

		// A new client is accepted while no process exists, and asks first.
		fresh := w.redis("10.77.0.7")
		qt.Assert(t, qt.Equals(fresh.do("INCR round"), fmt.Sprintf(":%d", round+1)))
		qt.Assert(t, qt.Equals(old.do("APPEND a x"), fmt.Sprintf(":%d", round+2)))
		w.Running("cache")
	}
}

func TestRedisBlockedAndSubscribedClientsSurvive(t *testing.T) {
	w := New(t, "redis-server")
	runRedis(w, "cache", "10.77.0.7")
	blocked, subscriber, writer := w.redis("10.77.0.7"), w.redis("10.77.0.7"), w.redis("10.77.0.7")
	blocked.send("BLPOP queue 0")
	subscriber.send("SUBSCRIBE news")
	for range 6 { // *3, $9, subscribe, $4, news, :1
		subscriber.line()
	}
	w.Hibernate("cache")
	// Pipelined while no process exists.
	writer.send("RPUSH queue job\r\nPUBLISH news hello\r\nPING")
	qt.Assert(t, qt.DeepEquals([]string{writer.line(), writer.line(), writer.line()}, []string{":1", ":1", "+PONG"}))
	qt.Assert(t, qt.DeepEquals([]string{blocked.line(), blocked.line(), blocked.line(), blocked.line(), blocked.line()},
		[]string{"*2", "$5", "queue", "$3", "job"}))
	for range 6 { // *3, $7, message, $4, news, $5
		subscriber.line()
	}
	qt.Assert(t, qt.Equals(subscriber.line(), "hello"))
}

func TestRedisSnapshotAndRestoreAsAnother(t *testing.T) {
	w := New(t, "redis-server")
	runRedis(w, "cache", "10.77.0.7")
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("SET a before"), "+OK"))

	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", Name: "s1"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(client.do("SET a after"), "+OK")) // it kept running, connected

	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s1", As: "copy", Endpoint: "10.77.0.8"}, nil)
	qt.Assert(t, qt.IsNil(err))
	copied := w.redis("10.77.0.8")
	copied.send("GET a")
	qt.Assert(t, qt.DeepEquals([]string{copied.line(), copied.line()}, []string{"$6", "before"}))
	client.send("GET a")
	qt.Assert(t, qt.DeepEquals([]string{client.line(), client.line()}, []string{"$5", "after"}))
}

// A hibernated app is saved without being woken, and what is made of that has all
// of it but the connections.
func TestRedisSnapshotWhileHeld(t *testing.T) {
	w := New(t, "redis-server")
	runRedis(w, "cache", "10.77.0.7")
	client := w.redis("10.77.0.7")
	qt.Assert(t, qt.Equals(client.do("SET a before"), "+OK"))
	w.OK("exec", "cache", "--", "sh", "-c", "echo kept >/root/file")
	w.OK("hibernate", "cache")
	w.OK("snapshot", "cache", "--name", "s1")
	qt.Assert(t, qt.Equals(w.Show("cache").GetStatus(), api.Status_STATUS_HELD))
	qt.Assert(t, qt.Equals(client.do("SET a after"), "+OK")) // it wakes, connected

	r, err := w.Snapctl(t.Context(), "restore", "s1", "--as", "copy", "--endpoint", "10.77.0.8")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr)) // the client's connection is not its
	copied := w.redis("10.77.0.8")
	copied.send("GET a")
	qt.Assert(t, qt.DeepEquals([]string{copied.line(), copied.line()}, []string{"$6", "before"}))
	qt.Assert(t, qt.Equals(w.OK("exec", "copy", "--", "cat", "/root/file"), "kept\n"))

	w.OK("hibernate", "cache")
	w.OK("snapshot", "cache", "--stop")
	qt.Assert(t, qt.Equals(w.Show("cache").GetStatus(), api.Status_STATUS_STOPPED))
}
