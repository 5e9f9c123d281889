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

// TestMemoryOfPostgres hibernates a database with checksums ten times under
// load. Then its tables and indexes are checked page by page, and its sums.
func TestMemoryOfPostgres(t *testing.T) {
	pgbench := filepath.Join(postgresBin, "pgbench")
	testenv.Need(t, testenv.Program(filepath.Join(postgresBin, "postgres")), testenv.Program(pgbench))
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t)) // postgres refuses to run as root
	w := New(t)
	const endpoint = "10.77.0.30"
	w.Run(&api.RunRequest{
		Name: "db", Endpoint: endpoint, User: "postgres", Env: []string{"PATH=" + postgresBin + ":/usr/bin:/bin", "LC_ALL=C"},
		Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER},
		Args: []string{"sh", "-ec", `
			initdb -D /tmp/data --auth=trust --no-sync --data-checksums >/dev/null
			echo 'host all all all trust' >> /tmp/data/pg_hba.conf
			exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off -c work_mem=32MB`},
	})
	psql := func(query string) string {
		t.Helper()
		return strings.TrimSpace(w.runs("psql", "-h", endpoint, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", query, "postgres"))
	}
	w.Until("postgres serves", func() error {
		r, err := host.Run(w.Command(t.Context(), filepath.Join(postgresBin, "pg_isready"), "-h", endpoint))
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("pg_isready: %s", r.Stdout)
		}
		return err
	})
	w.runs(pgbench, "-h", endpoint, "-U", "postgres", "-i", "-q", "-s", "1", "postgres")
	psql("create extension amcheck")

	// Sorts and hashes in private memory, whose answer is known.
	script := w.Path("sums.sql")
	w.runs("sh", "-c", `printf '%s\n' "$2" > "$1"`, "sh", script, `
		update pgbench_accounts set abalance = abalance + 1 where aid = 1 + (random() * 99999)::int;
		select 1 / (count(distinct md5(g::text)) = 20000)::int from generate_series(1, 20000) g;
		select 1 / (sum(n) = 200010000)::int from (select n from generate_series(1, 20000) n order by md5(n::text)) s;`)
	bench := w.Command(t.Context(), pgbench, "-h", endpoint, "-U", "postgres", "-n", "-f", script, "-c", "3", "-T", "600", "postgres")
	var out bytes.Buffer
	bench.Stdout, bench.Stderr = &out, &out
	qt.Assert(t, qt.IsNil(bench.Start()))
	done := make(chan error, 1)
	go func() { done <- bench.Wait() }()
	count := func() string { return psql("select sum(abalance) from pgbench_accounts") }
	for range 10 {
		before := count()
		w.Until("the load goes on", func() error {
			if len(done) != 0 {
				t.Fatalf("pgbench ended: %s", out.String())
			}
			if count() == before {
				return fmt.Errorf("no transaction since")
			}
			return nil
		})
		w.Hibernate("db")
		w.Wake("db")
		w.mapped(64 << 10)
	}
	before := count()
	w.Until("the load goes on", func() error {
		if count() == before {
			return fmt.Errorf("no transaction since")
		}
		return nil
	})
	qt.Assert(t, qt.Equals(len(done), 0), qt.Commentf("%s", out.String()))
	qt.Assert(t, qt.IsNil(bench.Process.Kill()))
	<-done
	qt.Assert(t, qt.IsFalse(strings.Contains(out.String(), "ERROR")), qt.Commentf("%s", out.String()))

	psql("checkpoint")
	psql(`select bt_index_parent_check(c.oid, true) from pg_class c join pg_am a on a.oid = c.relam where amname = 'btree' and relpersistence = 'p'`)
	qt.Assert(t, qt.Equals(psql(`select count(*) from pg_class c, lateral verify_heapam(c.oid) v where relkind in ('r', 't', 'm')`), "0"))
	qt.Assert(t, qt.Equals(psql(`select sum(checksum_failures) from pg_stat_database`), "0"))
}
