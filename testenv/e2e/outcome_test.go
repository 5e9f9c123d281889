package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestRestoreTellsWhatIsReset restores a snapshot of an app with connections, and
// one without.
func TestRestoreTellsWhatIsReset(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(redisRequest("cache", "10.77.0.7"))
	want := make([]string, 12)
	for i := range want {
		c := w.redis("10.77.0.7")
		qt.Assert(t, qt.Equals(c.do("PING"), "+PONG"))
		want[i] = "tcp 10.77.0.7:6379 <- " + c.conn.LocalAddr().String()
	}
	slices.Sort(want)
	w.OK("snapshot", "cache", "--name", "s1")

	r := w.CLI("restore", "s1", "--as", "copy", "--endpoint", "10.77.0.8")
	qt.Assert(t, qt.Equals(r.Code, 6))
	qt.Assert(t, qt.Matches(r.Stderr, `(snapctl: note: .*\n)*snapctl: error: copy runs, but not all of its sockets came back\n`))
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	qt.Assert(t, qt.HasLen(lines, 13))
	qt.Assert(t, qt.Equals(lines[1], "  12 sockets reset: it belongs to app cache"))
	for _, line := range lines[2:12] {
		qt.Assert(t, qt.SliceContains(want, strings.TrimSpace(line)))
	}
	qt.Assert(t, qt.Equals(lines[12], "    and 2 more, see --output json"))
	qt.Assert(t, qt.Equals(w.redis("10.77.0.8").do("PING"), "+PONG"))

	r = w.CLI("restore", "s1", "--as", "another", "--endpoint", "10.77.0.9", "-o", "json")
	qt.Assert(t, qt.Equals(r.Code, 6))
	doc := results(t, r.Stdout)
	qt.Assert(t, qt.IsFalse(doc.Results[0].Complete))
	got := make([]string, 0, 12)
	for _, s := range doc.Results[0].Sockets {
		qt.Assert(t, qt.Equals(s.Outcome, "reset"))
		qt.Assert(t, qt.Equals(s.Reason, "it belongs to app cache"))
		got = append(got, s.Socket)
	}
	slices.Sort(got)
	qt.Assert(t, qt.DeepEquals(got, want))

	w.Run(&api.RunRequest{Name: "quiet", Endpoint: "10.77.0.10", Args: []string{"sleep", "1000"}})
	w.OK("snapshot", "quiet", "--name", "s2", "--stop")
	w.OK("rm", "quiet")
	doc = results(t, w.OK("restore", "s2", "-o", "json"))
	qt.Assert(t, qt.IsTrue(doc.Results[0].Complete))
	qt.Assert(t, qt.HasLen(doc.Results[0].Sockets, 0))
}

// document is what scripts read of an operation's JSON.
type document struct {
	Results []struct {
		Complete bool `json:"complete"`
		Sockets  []struct {
			Socket, Outcome, Reason string
		} `json:"sockets"`
	} `json:"results"`
}

func results(t *testing.T, text string) document {
	t.Helper()
	var d document
	qt.Assert(t, qt.IsNil(json.Unmarshal([]byte(text), &d)))
	qt.Assert(t, qt.HasLen(d.Results, 1))
	return d
}

// TestPassedConnectionIsReset hibernates an app with a connection that no process
// has: it is on its way through a unix socket, where the hold can't see it. It is
// lost, and that is said.
func TestPassedConnectionIsReset(t *testing.T) {
	w := New(t)
	s := w.survivor("survivor")
	s.ok("tcp listen l 7100 5")
	peer := w.Connect(survivorEndpoint, 7100)
	s.ok("tcp accept l c")
	s.ok("tcp pass c")

	lost := "tcp " + survivorEndpoint + ":7100 <- " + peer.LocalAddr().String()
	r := w.CLI("hibernate", "survivor")
	qt.Assert(t, qt.Equals(r.Code, 6), qt.Commentf("%s", r.Stderr))
	qt.Assert(t, qt.Matches(r.Stderr, `(snapctl: note: .*\n)*snapctl: error: survivor is hibernated, but not all of its sockets are held\n`))
	qt.Assert(t, qt.StringContains(r.Stdout, fmt.Sprintf("\n  1 socket reset: no process had it open when the app was frozen: one had just passed it on\n    %s\n", lost)))
	woken := w.Wake("survivor")
	qt.Assert(t, qt.HasLen(woken.GetSockets(), 1))
	qt.Assert(t, qt.Equals(woken.GetSockets()[0].GetSocket(), lost))
	s.ok("tcp take c")
	s.ok("tcp end c")
}
