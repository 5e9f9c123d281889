package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestClonesOfPostgres makes databases of one, each of which takes writes of its
// own, sleeps, and is whole at the end.
func TestClonesOfPostgres(t *testing.T) {
	testenv.Need(t, testenv.Program(filepath.Join(postgresBin, "postgres")))
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t)) // postgres refuses to run as root
	w := New(t)
	const endpoint = "10.77.0.30"
	w.Run(&api.RunRequest{
		Name: "db", Endpoint: endpoint, User: "postgres", Env: []string{"PATH=" + postgresBin + ":/usr/bin:/bin", "LC_ALL=C"},
		Args: []string{"sh", "-ec", `
			initdb -D /tmp/data --auth=trust --no-sync --data-checksums >/dev/null
			echo 'host all all all trust' >> /tmp/data/pg_hba.conf
			exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp`},
	})
	psql := func(at, query string) string {
		t.Helper()
		return strings.TrimSpace(w.runs("psql", "-h", at, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", query, "postgres"))
	}
	w.Until("postgres serves", func() error {
		r, err := host.Run(w.Command(t.Context(), filepath.Join(postgresBin, "pg_isready"), "-h", endpoint))
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("pg_isready: %s", r.Stdout)
		}
		return err
	})
	psql(endpoint, "create table numbers (n int, of text); insert into numbers select g, 'db' from generate_series(1, 20000) g")
	w.template("t", "db", "")
	w.pool("t", 1)
	all := w.clones(&api.CloneRequest{Template: "t", Count: 3})
	psql(endpoint, "insert into numbers select g, 'db' from generate_series(1, 10) g")
	for round := range 3 {
		for i, r := range all {
			at := r.GetApp().GetEndpoint()
			psql(at, fmt.Sprintf("insert into numbers select g, '%s' from generate_series(1, %d) g; update numbers set n = n where of = 'db'", r.GetName(), 100*(i+1)))
			if round == 1 {
				w.Hibernate(r.GetName())
			}
		}
		if round == 1 {
			w.killDaemon()
		}
	}
	for i, r := range all {
		at := r.GetApp().GetEndpoint()
		qt.Assert(t, qt.Equals(psql(at, "select of, count(*) from numbers group by of order by of = 'db' desc"), fmt.Sprintf("db|20000\n%s|%d", r.GetName(), 300*(i+1))))
		psql(at, "checkpoint; create extension amcheck")
		qt.Assert(t, qt.Equals(psql(at, "select count(*) from pg_class c, lateral verify_heapam(c.oid) v where relkind = 'r'"), "0"))
		qt.Assert(t, qt.Equals(psql(at, "select sum(checksum_failures) from pg_stat_database"), "0"))
	}
	qt.Assert(t, qt.Equals(psql(endpoint, "select of, count(*) from numbers group by of"), "db|20010"))
	// A clone of one that has written.
	w.template("t2", all[2].GetName(), "")
	again := w.clone("t2", "again", nil)
	qt.Assert(t, qt.Equals(psql(again.GetEndpoint(), "select count(*) from numbers"), "20900"))
	w.RemoveAll()
	w.empty()
}

// TestClonesOfRedis copies a data set that clients of the original go on changing.
func TestClonesOfRedis(t *testing.T) {
	w := New(t, "redis-server")
	w.Run(&api.RunRequest{Name: "cache", Endpoint: actorEndpoint, Args: []string{"redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"}})
	c := w.redis(actorEndpoint)
	qt.Assert(t, qt.Equals(c.do("DEBUG POPULATE 100000 key 100"), "+OK"))
	c.send("DEBUG DIGEST")
	digest := c.line()
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "cache", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "t", Snapshot: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(c.do("SET key:1 changed"), "+OK"))
	all := w.clones(&api.CloneRequest{Template: "t", Count: 3})
	for i, r := range all {
		clone := w.redis(r.GetApp().GetEndpoint())
		qt.Assert(t, qt.Equals(clone.do("DEBUG DIGEST"), digest))
		qt.Assert(t, qt.Equals(clone.do(fmt.Sprint("INCRBY own ", i+1)), fmt.Sprintf(":%d", i+1)))
		qt.Assert(t, qt.Equals(clone.do("FLUSHALL"), "+OK")) // memory that is given back
		qt.Assert(t, qt.Equals(clone.do("DEBUG POPULATE 100000 key 100"), "+OK"))
		w.Hibernate(r.GetName())
		qt.Assert(t, qt.Equals(clone.do("DEBUG DIGEST"), digest))
		w.Running(r.GetName())
	}
	qt.Assert(t, qt.Not(qt.Equals(c.do("DEBUG DIGEST"), digest)))
	w.RemoveAll()
	w.empty()
}

// TestClonesOfPython copies an interpreter with a server and its threads.
func TestClonesOfPython(t *testing.T) {
	w := New(t, "python3")
	w.Run(&api.RunRequest{Name: "py", Endpoint: actorEndpoint, Args: []string{"/usr/bin/python3", "-u", "-c", `
import http.server, json, threading
hits, data = [0], list(range(200000))
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        hits[0] += 1
        data[hits[0]] = -1
        name = "none"
        try: name = json.load(open("/run/snapctl/instance.json"))["name"]
        except OSError: pass
        self.send_response(200); self.end_headers()
        self.wfile.write(f"{name} {hits[0]} {sum(data)}".encode())
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("", 8000), H).serve_forever()
`}})
	get := func(at string) string {
		t.Helper()
		w.Connect(at, 8000)
		return w.runs("/usr/bin/python3", "-c", "import urllib.request,sys; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')", "http://"+at+":8000/")
	}
	sum := func(hits int) int { return 199999*200000/2 - hits*(hits+1)/2 - hits }
	for n := range 2 {
		qt.Assert(t, qt.Equals(get(actorEndpoint), fmt.Sprintf("none %d %d", n+1, sum(n+1))))
	}
	w.template("t", "py", "")
	for _, r := range w.clones(&api.CloneRequest{Template: "t", Count: 3}) {
		for n := range 3 {
			qt.Assert(t, qt.Equals(get(r.GetApp().GetEndpoint()), fmt.Sprintf("%s %d %d", r.GetName(), n+3, sum(n+3))))
			if n == 1 {
				w.Hibernate(r.GetName())
			}
		}
	}
	qt.Assert(t, qt.Equals(get(actorEndpoint), fmt.Sprintf("none 3 %d", sum(3))))
	w.RemoveAll()
	w.empty()
}
