package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// hostDir makes a directory of the host to bind into apps.
func (w *World) hostDir(name string) string {
	w.t.Helper()
	dir := w.Path(name)
	qt.Assert(w.t, qt.IsNil(os.MkdirAll(dir, 0o755)))
	w.t.Cleanup(func() { qt.Check(w.t, qt.IsNil(os.RemoveAll(dir))) })
	return dir
}

// TestUnixServer has programs of the host talk to an app through a unix socket
// in a directory that both see. They stay connected: the accepted sockets belong
// to the clients' network namespace, where CRIU would not look for them.
func TestUnixServer(t *testing.T) {
	w := New(t)
	dir := w.hostDir("sock")
	w.actor(&api.RunRequest{
		Name: "server", Endpoint: actorEndpoint,
		Binds: []*api.Bind{{Source: dir, Destination: "/sock"}},
	}, "--unix", "/sock/s")
	tcp := w.caller(actorEndpoint)
	path := dir + "/s"

	c := w.from(w.Host, "unix", path)
	qt.Assert(t, qt.Equals(c.ask("echo unix"), "unix"))
	for round := range 3 {
		w.Hibernate("server")
		w.from(w.Host, "unix", path).close() // a probe
		silent := w.from(w.Host, "unix", path)
		w.Asleep("server")
		if round == 1 {
			w.killDaemon()
		}
		fresh := w.from(w.Host, "unix", path)
		qt.Assert(t, qt.Equals(fresh.ask("echo fresh"), "fresh"))
		w.Running("server")
		qt.Assert(t, qt.Equals(silent.ask("echo late"), "late"))
		qt.Assert(t, qt.Equals(tcp.ask("echo tcp"), "tcp"))
		qt.Assert(t, qt.Equals(c.ask("echo %d", round), fmt.Sprint(round)))
		// The next rounds have more of them, one with an end that has closed.
		if round == 1 {
			silent.close()
		}
	}
	// What a connected client sends wakes it, too.
	w.Hibernate("server")
	w.Asleep("server")
	qt.Assert(t, qt.Equals(c.ask("echo wake"), "wake"))
	w.Running("server")

	// A snapshot leaves it connected; to its copy the connection has ended.
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "server", Name: "saved"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(c.ask("echo still"), "still"))
}

// TestUnixClient has an app that is the client of a program of the host. It
// stays connected.
func TestUnixClient(t *testing.T) {
	w := New(t)
	dir := w.hostDir("sock")
	l, err := w.Listen(t.Context(), "unix", dir+"/host")
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	w.actor(&api.RunRequest{
		Name: "client", Endpoint: actorEndpoint,
		Binds: []*api.Bind{{Source: dir, Destination: "/sock"}},
	})
	tcp := w.caller(actorEndpoint)
	open := func() *caller {
		qt.Assert(t, qt.Not(qt.Matches(tcp.ask("open unix /sock/host"), "error: .*")))
		conn, err := l.Accept()
		qt.Assert(t, qt.IsNil(err))
		return newCaller(t, conn)
	}
	one, two := open(), open()
	for range 2 {
		w.Hibernate("client")
		w.Asleep("client")
		qt.Assert(t, qt.Equals(one.ask("echo one"), "one"))
		w.Running("client")
		qt.Assert(t, qt.Equals(two.ask("echo two"), "two"))
	}
	w.Hibernate("client")
	one.close()
	w.Asleep("client")
	qt.Assert(t, qt.Equals(tcp.ask("echo tcp"), "tcp"))
	qt.Assert(t, qt.Equals(two.ask("echo two"), "two"))

	// A snapshot leaves it connected; to its copy the connection has ended.
	_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "client", Name: "saved"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(two.ask("echo two"), "two"))
	r, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "saved", As: "copy", Endpoint: "10.77.0.31"}, nil)
	qt.Assert(t, qt.IsNil(err))
	var reset []string
	for _, s := range r.GetSockets() {
		reset = append(reset, s.GetSocket())
	}
	qt.Assert(t, qt.DeepEquals(reset, []string{"tcp 10.77.0.30:7000 <- " + tcp.conn.LocalAddr().String(), "unix stream -> " + dir + "/host"}))
	qt.Assert(t, qt.Equals(w.caller("10.77.0.31").ask("echo copy"), "copy"))
	qt.Assert(t, qt.Equals(two.ask("echo two"), "two"))
}

// TestUnixDatagramsToHost has an app log to a program of the host.
func TestUnixDatagramsToHost(t *testing.T) {
	w := New(t)
	dir := w.hostDir("bind")
	var log *net.UnixConn
	qt.Assert(t, qt.IsNil(w.Do(func() (err error) {
		log, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/log", Net: "unixgram"})
		return err
	})))
	defer log.Close()
	line := func() string {
		qt.Assert(t, qt.IsNil(log.SetReadDeadline(time.Now().Add(answerTime))))
		buf := make([]byte, 100)
		n, err := log.Read(buf)
		qt.Assert(t, qt.IsNil(err))
		return string(buf[:n])
	}
	s := w.survivor("survivor", &api.Bind{Source: dir, Destination: "/bind"})
	s.ok("setup unix-to-host")
	qt.Assert(t, qt.Equals(line(), "before"))
	for round := range 2 {
		w.Hibernate("survivor")
		w.killDaemon()
		w.Wake("survivor")
		s.ok("check unix-to-host round%d", round)
		qt.Assert(t, qt.Equals(line(), fmt.Sprintf("round%d", round)))
	}
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
	qt.Assert(t, qt.IsNil(err))
	s.ok("check unix-to-host last")
	qt.Assert(t, qt.Equals(line(), "last"))
}

// TestUnixAcceptedOnly has an app keep a connection to the host after it has
// closed its listener: nothing in its own network namespace tells of it.
func TestUnixAcceptedOnly(t *testing.T) {
	w := New(t)
	dir := w.hostDir("bind")
	s := w.survivor("survivor", &api.Bind{Source: dir, Destination: "/bind"})
	_, err := fmt.Fprintln(s.conn, "setup unix-accepted") // it answers when it has accepted
	qt.Assert(t, qt.IsNil(err))
	var conn net.Conn
	w.Until("connect", func() (err error) {
		conn, err = w.DialContext(t.Context(), "unix", dir+"/once")
		return err
	})
	c := newCaller(t, conn)
	answer, err := s.in.ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(answer, "ok\n"))
	for round := range 2 {
		w.Hibernate("survivor")
		w.Wake("survivor")
		want := fmt.Sprintf("round%d", round)
		s.ok("check unix-accepted %s", want)
		got := make([]byte, len(want))
		_, err := io.ReadFull(c.conn, got)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(string(got), want))
	}
}

// TestUnixBetweenApps connects two apps by a socket in a directory of the host.
// Either sleeps and wakes, and both at once.
func TestUnixBetweenApps(t *testing.T) {
	w := New(t)
	dir := w.hostDir("sock")
	binds := []*api.Bind{{Source: dir, Destination: "/sock"}}
	w.actor(&api.RunRequest{Name: "server", Endpoint: "10.77.0.31", Binds: binds}, "--unix", "/sock/s")
	w.actor(&api.RunRequest{Name: "client", Endpoint: "10.77.0.32", Binds: binds})
	server, client := w.caller("10.77.0.31"), w.caller("10.77.0.32")
	w.Until("server listens", func() error {
		conn, err := net.Dial("unix", dir+"/s")
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	qt.Assert(t, qt.Not(qt.Matches(client.ask("open unix /sock/s"), "error: .*")))
	w.Hibernate("client")
	w.Hibernate("server")
	qt.Assert(t, qt.Equals(server.ask("echo server"), "server"))
	qt.Assert(t, qt.Equals(client.ask("dial unix /sock/s echo both"), "both"))
	w.Running("client")
	w.Hibernate("server")
	qt.Assert(t, qt.Equals(client.ask("dial unix /sock/s echo again"), "again"))
	w.Running("server")
}
