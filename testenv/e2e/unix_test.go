package e2e

import (
	"net"
	"os"
	"testing"

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
// in a directory that both see. While one is connected, the app can't be
// hibernated, and it is told so: the accepted socket belongs to the client's
// network namespace, where CRIU does not look for it.
func TestUnixServer(t *testing.T) {
	w := New(t)
	dir := w.hostDir("sock")
	w.actor(&api.RunRequest{
		Name: "server", Endpoint: actorEndpoint,
		Binds: []*api.Bind{{Source: dir, Destination: "/sock"}},
	}, "--unix", "/sock/s")
	tcp := w.caller(actorEndpoint)
	path := dir + "/s"

	for round := range 2 {
		c := w.from(w.Host, "unix", path)
		qt.Assert(t, qt.Equals(c.ask("echo unix"), "unix"))
		_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "server"}, nil)
		qt.Assert(t, qt.ErrorMatches(err, `(?s).*unix connection that belongs to another network namespace.*`))
		_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "server"}, nil)
		qt.Assert(t, qt.ErrorMatches(err, `(?s).*unix connection that belongs to another network namespace.*`))
		qt.Assert(t, qt.Equals(w.Show("server").GetStatus(), api.Status_STATUS_RUNNING))
		qt.Assert(t, qt.Equals(c.ask("echo still"), "still"))
		c.close()

		// The app has seen the end once it answers after it.
		w.Until("hibernate", func() error {
			qt.Assert(t, qt.Equals(tcp.ask("echo %d", round), string(rune('0'+round))))
			_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "server"}, nil)
			return err
		})
		w.from(w.Host, "unix", path).close() // a probe
		silent := w.from(w.Host, "unix", path)
		w.Asleep("server")
		fresh := w.from(w.Host, "unix", path)
		qt.Assert(t, qt.Equals(fresh.ask("echo fresh"), "fresh"))
		w.Running("server")
		qt.Assert(t, qt.Equals(silent.ask("echo late"), "late"))
		qt.Assert(t, qt.Equals(tcp.ask("echo tcp"), "tcp"))
		fresh.close()
		silent.close()
	}
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

// TestUnixBetweenApps connects two apps by a socket in a directory of the host.
// The client's app sleeps and wakes; the server's can't while it is connected.
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
	_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "server"}, nil)
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*another network namespace.*`))
	qt.Assert(t, qt.Equals(server.ask("echo server"), "server"))
	qt.Assert(t, qt.Equals(client.ask("dial unix /sock/s echo both"), "both"))
	w.Running("client")
}
