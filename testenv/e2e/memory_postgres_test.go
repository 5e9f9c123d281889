package e2e

import (
	"testing"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestMemoryOfPostgres hibernates a database with checksums ten times under
// load. Then its tables and indexes are checked page by page, and its sums.
func TestMemoryOfPostgres(t *testing.T) {
	needPostgres(t)
	w := New(t)
	db := w.database(w, &api.RunRequest{Endpoint: "10.77.0.30", Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER}}, "-c work_mem=32MB")

	// Sorts and hashes in private memory, whose answer is known.
	script := w.Path("sums.sql")
	w.runs("sh", "-c", `printf '%s\n' "$2" > "$1"`, "sh", script, `
		update pgbench_accounts set abalance = abalance + 1 where aid = 1 + (random() * 99999)::int;
		select 1 / (count(distinct md5(g::text)) = 20000)::int from generate_series(1, 20000) g;
		select 1 / (sum(n) = 200010000)::int from (select n from generate_series(1, 20000) n order by md5(n::text)) s;`)
	load := db.load("select sum(abalance) from pgbench_accounts", "-n", "-f", script, "-c", "3")
	for range 10 {
		load.goesOn()
		w.Hibernate("db")
		w.Wake("db")
		w.mapped(64 << 10)
	}
	load.goesOn()
	load.end()
	db.intact()
}
