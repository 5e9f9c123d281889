package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestUDPSurvives has datagrams wait in queues inside the app; those of real
// clients are in TestAsyncioServesThroughHibernation.
func TestUDPSurvives(t *testing.T) {
	survive(t, map[string]trial{"udp": {}})
}

// datagramCounter counts datagrams on one port and tells how many there were, and the
// size of its buffer, on another.
const datagramCounter = `import select, socket
data = socket.socket(type=socket.SOCK_DGRAM); data.bind(("0.0.0.0", 7001))
ask = socket.create_server(("0.0.0.0", 7000))
n = 0
while True:
    ready = select.select([data, ask], [], [])[0]
    if data in ready:
        data.recv(99); n += 1
    elif ask in ready:
        c = ask.accept()[0]
        c.sendall(b"%d datagrams, buffer %d\n" % (n, data.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)))
        c.close()`

// counted asks the counter.
func (w *World) counted(endpoint string) (datagrams, buffer int, err error) {
	c := w.Connect(endpoint, 7000)
	defer c.Close()
	_, err = fmt.Fscanf(c, "%d datagrams, buffer %d\n", &datagrams, &buffer)
	return datagrams, buffer, err
}

// TestDatagramsWhileAsleep sends an app that sleeps more than the buffer that it has
// takes. It has them all when it is woken, and that buffer again, and what is more than a
// held socket takes is counted and listed.
func TestDatagramsWhileAsleep(t *testing.T) {
	w := New(t, "python3")
	const endpoint = "10.77.0.50"
	never := &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER}
	w.Run(&api.RunRequest{Name: "counter", Endpoint: endpoint, Wake: never, Args: []string{"python3", "-c", datagramCounter}})
	_, own, err := w.counted(endpoint)
	qt.Assert(t, qt.IsNil(err))
	send := func(n int) {
		conn, err := w.DialContext(t.Context(), "udp", endpoint+":7001")
		qt.Assert(t, qt.IsNil(err))
		defer conn.Close()
		for range n {
			_, err := conn.Write([]byte("x"))
			qt.Assert(t, qt.IsNil(err))
		}
	}
	dropped := func() (n int64) {
		rows, err := w.API.VemTable(t.Context(), &api.VemTableRequest{App: "counter"})
		qt.Assert(t, qt.IsNil(err))
		for _, r := range rows {
			n += r.GetDropped()
		}
		return n
	}
	has := func(want int) {
		t.Helper()
		w.Until("the app has read all", func() error {
			n, buffer, err := w.counted(endpoint)
			if n != want || buffer != own {
				err = errors.Join(err, fmt.Errorf("it has %d of %d, and a buffer of %d, not %d", n, want, buffer, own))
			}
			return err
		})
	}

	w.Hibernate("counter")
	send(1000)
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
	w.Dial()
	send(1000)
	qt.Assert(t, qt.Equals(dropped(), 0))
	qt.Assert(t, qt.HasLen(w.Wake("counter").GetNotes(), 0))
	has(2000)

	w.Hibernate("counter")
	const more = 40000
	send(more)
	lost := dropped()
	qt.Assert(t, qt.IsTrue(lost > 0))
	notes := w.Wake("counter").GetNotes()
	qt.Assert(t, qt.HasLen(notes, 1))
	qt.Assert(t, qt.StringContains(notes[0].GetText(), fmt.Sprintf("%d datagrams to 0.0.0.0:7001 were lost", lost)))
	has(2000 + more - int(lost))

	// A daemon that dies when the sockets have their large buffers, and the app lives.
	g := gate.Kill("hibernate.held")
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGTERM, host.Daemon{Env: gate.Env(g)})))
	w.Dial()
	_, err = w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "counter"}, nil)
	qt.Assert(t, qt.IsNotNil(err))
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
	w.Dial()
	w.Until("the app runs", func() error {
		if s := w.Show("counter").GetStatus(); s != api.Status_STATUS_RUNNING {
			return fmt.Errorf("it is %s", strings.ToLower(s.String()))
		}
		return nil
	})
	has(2000 + more - int(lost))
}
