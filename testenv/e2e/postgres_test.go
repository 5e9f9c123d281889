package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

var pgbench = filepath.Join(postgresBin, "pgbench")

// needPostgres has what a database needs that is an app. It is called before the hosts are made.
func needPostgres(t *testing.T) {
	t.Helper()
	testenv.Need(t, testenv.Program(filepath.Join(postgresBin, "postgres")), testenv.Program(pgbench))
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t)) // postgres refuses to run as root
}

// database is a PostgreSQL with checksums, as a client on some host sees it.
type database struct {
	client   *World
	endpoint string
}

// database runs one as the app "db", with more of a request and of the server's options, and fills it for pgbench.
func (w *World) database(client *World, req *api.RunRequest, options string) *database {
	w.t.Helper()
	req.Name, req.User, req.Env = "db", "postgres", []string{"PATH=" + postgresBin + ":/usr/bin:/bin", "LC_ALL=C"}
	req.Args = []string{"sh", "-ec", `
		initdb -D /tmp/data --auth=trust --no-sync --data-checksums >/dev/null
		echo 'host all all all trust' >> /tmp/data/pg_hba.conf
		exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off ` + options}
	d := &database{client, w.Run(req).GetEndpoint()}
	client.Until("postgres serves", func() error {
		r, err := host.Run(client.Command(w.t.Context(), filepath.Join(postgresBin, "pg_isready"), "-h", d.endpoint))
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("pg_isready: %s", r.Stdout)
		}
		return err
	})
	client.runs(pgbench, "-h", d.endpoint, "-U", "postgres", "-i", "-q", "-s", "1", "postgres")
	d.psql("create extension amcheck")
	return d
}

func (d *database) psql(query string) string {
	d.client.t.Helper()
	return strings.TrimSpace(d.client.runs("psql", "-h", d.endpoint, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", query, "postgres"))
}

// load is a pgbench that runs.
type load struct {
	*database
	count string // a query whose answer changes with each transaction
	out   bytes.Buffer
	kill  func() error
	done  chan error
}

// load starts a pgbench.
func (d *database) load(count string, args ...string) *load {
	t := d.client.t
	t.Helper()
	l := &load{database: d, count: count, done: make(chan error, 1)}
	cmd := d.client.Command(t.Context(), pgbench, append([]string{"-h", d.endpoint, "-U", "postgres", "-T", "600"}, append(args, "postgres")...)...)
	cmd.Stdout, cmd.Stderr = &l.out, &l.out
	qt.Assert(t, qt.IsNil(cmd.Start()))
	l.kill = cmd.Process.Kill
	go func() { l.done <- cmd.Wait() }()
	return l
}

// goesOn waits for one more transaction.
func (l *load) goesOn() {
	l.client.t.Helper()
	before := l.psql(l.count)
	l.client.Until("the load goes on", func() error {
		if len(l.done) != 0 {
			l.client.t.Fatalf("pgbench ended: %s", l.out.String())
		}
		if l.psql(l.count) == before {
			return fmt.Errorf("no transaction since")
		}
		return nil
	})
}

// end ends it, and proves that no client had an error.
func (l *load) end() {
	t := l.client.t
	t.Helper()
	qt.Assert(t, qt.Equals(len(l.done), 0), qt.Commentf("%s", l.out.String()))
	qt.Assert(t, qt.IsNil(l.kill()))
	<-l.done
	qt.Assert(t, qt.IsFalse(strings.Contains(strings.ToLower(l.out.String()), "error")), qt.Commentf("%s", l.out.String()))
}

// intact looks at tables and indexes page by page.
func (d *database) intact() {
	t := d.client.t
	t.Helper()
	d.psql("checkpoint")
	d.psql(`select bt_index_parent_check(c.oid, true) from pg_class c join pg_am a on a.oid = c.relam where amname = 'btree' and relpersistence = 'p'`)
	qt.Assert(t, qt.Equals(d.psql(`select count(*) from pg_class c, lateral verify_heapam(c.oid) v where relkind in ('r', 't', 'm')`), "0"))
	qt.Assert(t, qt.Equals(d.psql(`select sum(checksum_failures) from pg_stat_database`), "0"))
}
