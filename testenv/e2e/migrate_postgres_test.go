package e2e

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

// TestMigratePostgres moves a database back and forth while a third host's clients write to it. None of them has an
// error, and tables, indexes and checksums are right in the end.
func TestMigratePostgres(t *testing.T) {
	testenv.Need(t, testenv.Program("ip"), testenv.Program("nft"))
	needPostgres(t)
	hs := newInstallation(t, "gamma", "alpha", "beta")
	at, other := hs.worlds[1], hs.worlds[2]
	db := at.database(hs.worlds[0], &api.RunRequest{}, "")
	load := db.load("select count(*) from pgbench_history", "-c", "4")
	for range rounds(t, 4) {
		load.goesOn()
		m := hs.migrate("db", at, other)
		qt.Assert(t, qt.HasLen(m.Lost, 0))
		qt.Assert(t, qt.Equals(m.Trouble, ""))
		at, other = other, at
	}
	load.goesOn()
	load.end()
	db.intact()
	// What a transaction has done it has done whole.
	qt.Check(t, qt.Equals(db.psql(`select (select sum(delta) from pgbench_history) = (select sum(abalance) from pgbench_accounts)`), "t"))
}
