package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestSavedWithoutShortcuts has CRIU fail, in the middle of a frozen app, whenever memory and
// connections are kept from it: the app is saved once more, by CRIU alone, and whoever asked is told. If CRIU
// fails then, too, that is all, and the app goes on.
func TestSavedWithoutShortcuts(t *testing.T) {
	dir := t.TempDir()
	script, log, always := filepath.Join(dir, "criu"), filepath.Join(dir, "log"), filepath.Join(dir, "always")
	// A CRIU with shortcuts is in a mount namespace of its own. No file that it writes may be larger than 4 KiB.
	qt.Assert(t, qt.IsNil(os.WriteFile(script, fmt.Appendf(nil, `#!/bin/sh
how=plain
[ "$(readlink /proc/$$/ns/mnt)" = "$(readlink /proc/$PPID/ns/mnt)" ] || how=short
echo $how >>%[1]s
if [ $how = short ] || [ -e %[2]s ]; then
	trap '' XFSZ
	ulimit -f 8
fi
exec %[3]s "$@"
`, log, always, testenv.CRIUPath()), 0o755)))
	w := newWorld(t, host.Config{CRIU: script, Args: []string{"--copy-ahead", "1", "--hide-connections", "1"}}, nil, "gcc")
	l := w.ledger("ledger")
	runs := func() string {
		b, err := os.ReadFile(log)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(os.Truncate(log, 0)))
		return strings.Join(strings.Fields(string(b)), " ")
	}
	told := func(notes []*api.Note) {
		t.Helper()
		found := false
		for _, n := range notes {
			found = found || strings.Contains(n.GetText(), "saved the app without shortcuts")
		}
		qt.Check(t, qt.IsTrue(found), qt.Commentf("%v", notes))
	}

	runs()
	result := w.Hibernate("ledger")
	qt.Check(t, qt.Equals(runs(), "short plain"))
	told(result.GetNotes())
	w.Wake("ledger")
	l.check()

	l.write(1000, 4000, 2)
	runs()
	saved, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: "goes-on"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(runs(), "short plain"))
	told(saved.GetNotes())
	l.check()

	qt.Assert(t, qt.IsNil(os.WriteFile(always, nil, 0o600)))
	_, err = w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "ledger"}, nil)
	qt.Check(t, qt.ErrorMatches(err, "(?s).*CRIU could not save.*"))
	qt.Check(t, qt.Equals(runs(), "short plain"))
	qt.Check(t, qt.Equals(w.Show("ledger").GetStatus(), api.Status_STATUS_RUNNING))
	l.check()
	qt.Assert(t, qt.IsNil(os.Remove(always)))

	saved, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "ledger", Name: "ends", Stop: true}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(strings.HasPrefix(runs(), "short plain"))) // and the rehearsal of a restore
	told(saved.GetNotes())
	for i, name := range []string{"goes-on", "ends"} {
		endpoint := []string{copyEndpoint, "10.77.0.22"}[i]
		_, err := w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: name, As: name, Endpoint: endpoint}, nil)
		qt.Assert(t, qt.IsNil(err))
		l.restored(w, endpoint).check()
	}
}
