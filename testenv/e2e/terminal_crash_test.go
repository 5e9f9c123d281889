package e2e

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestWaitingTerminalsSurviveCrash fails a hibernation and a snapshot, or kills the
// daemon in it, when what waits in the app's terminals has been taken out of them. The
// app goes on with all of it.
func TestWaitingTerminalsSurviveCrash(t *testing.T) {
	hibernate := func(w *World) error {
		_, err := w.API.Hibernate(w.t.Context(), &api.HibernateRequest{Name: "survivor"}, nil)
		return err
	}
	snapshot := func(w *World) error {
		_, err := w.API.TakeSnapshot(w.t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
		return err
	}
	for point, do := range map[fault.Name]func(*World) error{
		"hibernate.dumped": hibernate, "hibernate.saved": hibernate, "snapshot.dumped": snapshot,
	} {
		for how, plan := range map[string]gate.Fault{"killed": gate.Kill(point), "failed": gate.Fail(point)} {
			t.Run(how+" "+string(point), func(t *testing.T) {
				w := New(t)
				s := w.survivor("survivor")
				s.ok("setup pty-waiting")
				qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), unix.SIGTERM, host.Daemon{Env: gate.Env(plan)})))
				w.Dial()
				qt.Assert(t, qt.IsNotNil(do(w)))
				if how == "killed" {
					_, err := w.WaitDaemon(t.Context())
					qt.Assert(t, qt.IsNil(err))
					qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
					w.Dial()
				}
				qt.Assert(t, qt.Equals(w.Show("survivor").GetStatus(), api.Status_STATUS_RUNNING))
				s.ok("check pty-waiting")
			})
		}
	}
}
