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

// TestMigratePostgres moves a database back and forth while a third host's clients write to it. None of them has an
// error, and tables, indexes and checksums are right in the end.
func TestMigratePostgres(t *testing.T) {
	pgbench := filepath.Join(postgresBin, "pgbench")
	testenv.Need(t, testenv.Program(filepath.Join(postgresBin, "postgres")), testenv.Program(pgbench), testenv.Program("ip"), testenv.Program("nft"))
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t)) // postgres refuses to run as root
	hs := newInstallation(t, "gamma", "alpha", "beta")
	gamma, at, other := hs.worlds[0], hs.worlds[1], hs.worlds[2]
	endpoint := at.Run(&api.RunRequest{
		Name: "db", User: "postgres", Env: []string{"PATH=" + postgresBin + ":/usr/bin:/bin", "LC_ALL=C"},
		Args: []string{"sh", "-ec", `
			initdb -D /tmp/data --auth=trust --no-sync --data-checksums >/dev/null
			echo 'host all all all trust' >> /tmp/data/pg_hba.conf
			exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off`},
	}).GetEndpoint()
	psql := func(query string) string {
		t.Helper()
		return strings.TrimSpace(gamma.runs("psql", "-h", endpoint, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", query, "postgres"))
	}
	gamma.Until("postgres serves", func() error {
		r, err := host.Run(gamma.Command(t.Context(), filepath.Join(postgresBin, "pg_isready"), "-h", endpoint))
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("pg_isready: %s", r.Stdout)
		}
		return err
	})
	gamma.runs(pgbench, "-h", endpoint, "-U", "postgres", "-i", "-q", "-s", "1", "postgres")
	psql("create extension amcheck")
	bench := gamma.Command(t.Context(), pgbench, "-h", endpoint, "-U", "postgres", "-c", "4", "-T", "600", "postgres")
	var out bytes.Buffer
	bench.Stdout, bench.Stderr = &out, &out
	qt.Assert(t, qt.IsNil(bench.Start()))
	done := make(chan error, 1)
	go func() { done <- bench.Wait() }()
	goesOn := func() {
		t.Helper()
		count := func() string { return psql("select count(*) from pgbench_history") }
		before := count()
		gamma.Until("the load goes on", func() error {
			if len(done) != 0 {
				t.Fatalf("pgbench ended: %s", out.String())
			}
			if count() == before {
				return fmt.Errorf("no transaction since")
			}
			return nil
		})
	}
	for range rounds(t, 4) {
		goesOn()
		m := hs.migrate("db", at, other)
		qt.Assert(t, qt.HasLen(m.Lost, 0))
		qt.Assert(t, qt.Equals(m.Trouble, ""))
		at, other = other, at
	}
	goesOn()
	qt.Assert(t, qt.IsNil(bench.Process.Kill()))
	<-done
	qt.Check(t, qt.IsFalse(strings.Contains(strings.ToLower(out.String()), "error")), qt.Commentf("%s", out.String()))
	psql("checkpoint")
	psql(`select bt_index_parent_check(c.oid, true) from pg_class c join pg_am a on a.oid = c.relam where amname = 'btree' and relpersistence = 'p'`)
	qt.Check(t, qt.Equals(psql(`select count(*) from pg_class c, lateral verify_heapam(c.oid) v where relkind in ('r', 't', 'm')`), "0"))
	qt.Check(t, qt.Equals(psql(`select sum(checksum_failures) from pg_stat_database`), "0"))
	// What each client was told is committed is there.
	qt.Check(t, qt.Equals(psql(`select (select sum(delta) from pgbench_history) = (select sum(abalance) from pgbench_accounts)`), "t"))
}
