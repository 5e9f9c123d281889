package e2e

import (
	"encoding/json"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv/host"
)

// TestDoctorWithoutDaemon asks for a diagnosis beside a daemon and without one:
// the same checks are made, by the daemon or by snapctl.
func TestDoctorWithoutDaemon(t *testing.T) {
	w := New(t)
	beside := w.diagnosis(t, 0)
	qt.Assert(t, qt.Equals(beside["snapctld"].Status, "ok"))
	qt.Assert(t, qt.Equals(beside["holder"].Status, "ok"))

	qt.Assert(t, qt.IsNil(w.KillDaemon(t.Context(), syscall.SIGTERM)))
	alone := w.diagnosis(t, 5)
	qt.Assert(t, qt.Equals(alone["snapctld"].Status, "failed"))
	qt.Assert(t, qt.Equals(alone["snapctld"].Found, "not running: nobody answers at "+host.SocketPath))
	qt.Assert(t, qt.StringContains(alone["snapctld"].Remedy, "systemctl start snapctld"))
	for name, c := range beside {
		if name == "snapctld" || name == "holder" || name == "saved-apps" {
			continue
		}
		qt.Check(t, qt.Equals(alone[name].Status, c.Status), qt.Commentf("%s: %v", name, alone[name]))
	}
	qt.Assert(t, qt.HasLen(alone, len(beside)-2)) // the holder's and that of saved apps are the daemon's
}

type check struct{ Name, Status, Found, Remedy string }

// diagnosis is what doctor finds, by name.
func (w *World) diagnosis(t *testing.T, code int) map[string]check {
	t.Helper()
	r := w.CLI("doctor", "-o", "json")
	qt.Assert(t, qt.Equals(r.Code, code), qt.Commentf("%s%s", r.Stdout, r.Stderr))
	var doc struct{ Checks []check }
	qt.Assert(t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &doc)))
	all := make(map[string]check)
	for _, c := range doc.Checks {
		all[c.Name] = c
	}
	return all
}
