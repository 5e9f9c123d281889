package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// JSON reads what a snapctl command prints.
func (w *World) JSON(to any, args ...string) {
	w.t.Helper()
	out := w.OK(append([]string{"--output", "json"}, args...)...)
	qt.Assert(w.t, qt.IsNil(json.Unmarshal([]byte(out), to)), qt.Commentf("%s", out))
}

// tableRow is a row of `snapctl vem table --output json`; see JSON.md.
type tableRow struct {
	App, Network, Protocol, Local, Remote, Actual, Status, State string

	Inode        uint64
	ReceiveBytes int64 `json:"receive_queue_bytes"`
	SendBytes    int64 `json:"send_queue_bytes"`
}

func (w *World) table(app string) []tableRow {
	w.t.Helper()
	var doc struct{ Rows []tableRow }
	w.JSON(&doc, "vem", "table", app)
	return doc.Rows
}

// TestVemTable looks at an app's sockets while it runs and while it is held.
func TestVemTable(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "app", Endpoint: actorEndpoint, Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER}})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("echo up"), "up"))
	client := c.conn.LocalAddr().String()

	pid := fmt.Sprintf("pid %d", w.Show("app").GetPid())
	inodes := map[string]uint64{}
	check := func(status, actual string, want ...tableRow) {
		t.Helper()
		rows := w.table("app")
		for i := range rows {
			r := &rows[i]
			name := r.Protocol + " " + r.State + " " + r.Remote
			if r.Inode != 0 { // the same socket all the time
				if inodes[name] == 0 {
					inodes[name] = r.Inode
				}
				qt.Assert(t, qt.Equals(r.Inode, inodes[name]))
			}
			r.Inode = 0
		}
		for i := range want {
			want[i].App, want[i].Network = "app", "default"
			want[i].Status = status
			if want[i].Actual == "" {
				want[i].Actual = actual
			}
		}
		qt.Assert(t, qt.DeepEquals(rows, want))
	}
	listener := tableRow{Protocol: "tcp", Local: "[::]:7000", State: "LISTEN"}
	connection := tableRow{Protocol: "tcp", Local: actorPort, Remote: client, State: "ESTABLISHED"}
	datagrams := tableRow{Protocol: "udp", Local: "[::]:7000", State: "CLOSE"}
	check("up", pid, listener, connection, datagrams)

	w.Hibernate("app")
	check("held", "holder", listener, connection, datagrams)
	c.send("echo 1234")
	fresh := w.caller(actorEndpoint)
	fresh.send("echo 12")
	w.Until("both wait", func() error {
		waiting := 0
		for _, r := range w.table("app") {
			if r.ReceiveBytes > 0 {
				waiting++
			}
		}
		if waiting != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	connection.ReceiveBytes = int64(len("echo 1234\n"))
	queued := connection
	queued.Remote, queued.ReceiveBytes = fresh.conn.LocalAddr().String(), int64(len("echo 12\n"))
	both := []tableRow{connection, queued}
	slices.SortFunc(both, func(a, b tableRow) int { return port(t, a.Remote) - port(t, b.Remote) })
	check("held", "holder", listener, both[0], both[1], datagrams)
	text := w.OK("vem", "table")
	qt.Assert(t, qt.Equals(strings.Count(text, "held"), 4), qt.Commentf("%s", text))

	w.Wake("app")
	qt.Assert(t, qt.Equals(c.answer(), "1234"))
	qt.Assert(t, qt.Equals(fresh.answer(), "12"))
	pid = fmt.Sprintf("pid %d", w.Show("app").GetPid())
	for i := range both {
		both[i].ReceiveBytes = 0
	}
	check("up", pid, listener, both[0], both[1], datagrams)

	w.OK("stop", "app")
	qt.Assert(t, qt.HasLen(w.table("app"), 0))
	qt.Assert(t, qt.Equals(w.CLI("vem", "table", "none").Code, 4))
}

func port(t *testing.T, address string) (n int) {
	t.Helper()
	_, err := fmt.Sscanf(address[strings.LastIndex(address, ":")+1:], "%d", &n)
	qt.Assert(t, qt.IsNil(err))
	return n
}

// TestIDs looks at the map of an app's ids.
func TestIDs(t *testing.T) {
	w := New(t)
	w.OK("run", "--name", "app", "--hostname", "box", "--endpoint", actorEndpoint, "--publish", "8080:80", "--", "sleep", "1000")
	type id struct{ Kind, Virtual, Actual, Detail string }
	ids := func() map[string]id {
		var doc struct{ IDs []id }
		w.JSON(&doc, "ids", "app")
		found := map[string]id{}
		for _, i := range doc.IDs {
			found[i.Kind+" "+i.Virtual] = i
		}
		return found
	}
	running := ids()
	qt.Check(t, qt.Equals(running["pid 1"].Actual, fmt.Sprint(w.Show("app").GetPid())))
	qt.Check(t, qt.Equals(running["pid 1"].Detail, "sleep"))
	qt.Check(t, qt.Equals(running["address "+actorEndpoint].Actual, actorEndpoint))
	qt.Check(t, qt.Equals(running["port "+actorEndpoint+":80/tcp"].Actual, "*:8080/tcp"))
	qt.Check(t, qt.Equals(running["hostname box"].Actual, "app"))
	for _, kind := range []string{"pid", "mnt", "ipc", "uts", "net", "cgroup", "time"} {
		qt.Check(t, qt.Matches(running["namespace "+kind].Actual, kind+`:\[\d+\]`))
	}
	w.OK("hibernate", "app")
	held := ids()
	qt.Check(t, qt.Equals(held["address "+actorEndpoint].Detail, "network default"))
	_, ok := held["pid 1"]
	qt.Check(t, qt.IsFalse(ok))
	w.OK("wake", "app")
	woken := ids()
	qt.Check(t, qt.Equals(woken["pid 1"].Actual, fmt.Sprint(w.Show("app").GetPid())))
	// These stay in place while the app is held.
	for _, kind := range []string{"net"} {
		qt.Check(t, qt.Equals(woken["namespace "+kind], running["namespace "+kind]))
	}
}

// TestInspect looks into the images of a held app and of a snapshot.
func TestInspect(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "app", Endpoint: actorEndpoint})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("children 2"), "ok"))
	r := w.CLI("inspect", "app")
	qt.Assert(t, qt.Equals(r.Code, 1))
	qt.Assert(t, qt.StringContains(r.Stderr, "it is running"))
	type inspection struct {
		Snapshot struct {
			App, Endpoint string
			Own           int64 `json:"host_files_bytes"`
			Shared        int64 `json:"host_files_shared_bytes"`
		}
		Image struct {
			Processes []struct {
				PID, PPID   int
				Comm        string
				Descriptors []any
			}
			Sockets []struct{ Protocol, State, Local, Remote string }
		}
	}
	// The program is a file of the host, which is kept once for all.
	check := func(name string, own bool) {
		t.Helper()
		var doc inspection
		w.JSON(&doc, "inspect", name)
		qt.Check(t, qt.Equals(doc.Snapshot.App, "app"))
		qt.Check(t, qt.Equals(doc.Snapshot.Own > 0, own))
		qt.Check(t, qt.Equals(doc.Snapshot.Shared > 0, !own))
		qt.Check(t, qt.Equals(doc.Snapshot.Endpoint, actorEndpoint))
		qt.Assert(t, qt.HasLen(doc.Image.Processes, 3))
		root := doc.Image.Processes[0]
		qt.Check(t, qt.Equals(root.PID, 1))
		qt.Check(t, qt.Equals(root.Comm, "actor"))
		qt.Check(t, qt.Equals(doc.Image.Processes[1].PPID, 1))
		var sockets []string
		for _, s := range doc.Image.Sockets {
			sockets = append(sockets, s.Protocol+" "+s.State)
		}
		slices.Sort(sockets)
		qt.Check(t, qt.HasLen(sockets, 3), qt.Commentf("%v", sockets))
		text := w.OK("inspect", name)
		for _, want := range []string{"actor", actorEndpoint, "PROCESS", "SOCKET"} {
			qt.Check(t, qt.StringContains(text, want))
		}
	}
	w.OK("snapshot", "--name", "saved", "app")
	check("saved", true)
	w.OK("hibernate", "app")
	check("app", false)
	qt.Assert(t, qt.Equals(c.ask("echo up"), "up"))
	qt.Assert(t, qt.Equals(w.CLI("inspect", "none").Code, 4))
}
