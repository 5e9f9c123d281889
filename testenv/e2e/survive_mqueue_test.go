package e2e

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestQueuesSurvive has an app's POSIX message queues stay in the kernel while
// it has no process. A snapshot is refused: nobody can copy messages.
func TestQueuesSurvive(t *testing.T) {
	w := New(t)
	for name, ordeal := range ordeals(t) {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			s.ok("setup mqueue")
			s.ok("setup pipe")
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
			qt.Assert(t, qt.ErrorMatches(err, `(?s).*POSIX message queue /jobs open as descriptor \d+: .*nobody can copy its messages.*`))
			ordeal(w, "survivor")
			s.ok("check mqueue")
			s.ok("check pipe")
			// Without queues it is hibernated as any other, System V included.
			s.ok("setup sysv")
			w.Hibernate("survivor")
			w.Wake("survivor")
			s.ok("check sysv")
		})
	}
}

// TestQueuesRefused has an app with message queues of which something would be
// lost: a notification, which ends with the process, and what shares their
// namespace.
func TestQueuesRefused(t *testing.T) {
	w := New(t)
	for thing, what := range map[string]string{
		"mqueue-notify": `POSIX message queue with a notification open as descriptor \d+: try again.*`,
		"mqueue-sysv":   `System V .* beside POSIX message queues: .+`,
	} {
		t.Run(thing, func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			s.ok("setup %s", thing)
			_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "survivor"}, nil)
			qt.Assert(t, qt.ErrorMatches(err, `(?s).*process \d+ (has|uses) an unsupported `+what))
			qt.Assert(t, qt.Equals(w.Show("survivor").GetStatus(), api.Status_STATUS_RUNNING))
			s.ok("check %s", thing)
			w.Hibernate("survivor")
			w.Wake("survivor")
			s.ok("setup pipe")
		})
	}
}

// TestQueuesAreEmptyAfterReboot has a held app's ipc namespace and all that was
// held go. It is woken in a new one, not in the daemon's own.
func TestQueuesAreEmptyAfterReboot(t *testing.T) {
	w := New(t)
	s := w.survivor("survivor")
	s.ok("setup mqueue")
	w.Hibernate("survivor")
	for _, mount := range []string{"mqueue", "ns/ipc"} {
		out, err := w.Command(t.Context(), "umount", host.RunDir+"/apps/survivor/"+mount).CombinedOutput()
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", out))
	}
	w.loseHolder()
	w.Wake("survivor")
	w.control(survivorEndpoint).ok("check mqueue lost")
	w.Hibernate("survivor")
	w.Wake("survivor")
}

// TestHeldObjectsSurviveCrash kills the daemon at each point of a hibernation
// and of a wake of an app with everything that is held besides sockets.
func TestHeldObjectsSurviveCrash(t *testing.T) {
	things := []string{"mqueue", "eventfd-semaphore", "inotify-queued"}
	for _, name := range points() {
		op := operationOf(name)
		if op != "hibernate" && op != "wake" {
			continue
		}
		t.Run(string(name), func(t *testing.T) {
			w := New(t)
			s := w.survivor("survivor")
			for _, thing := range things {
				s.ok("setup %s", thing)
			}
			if op == "wake" {
				w.Hibernate("survivor")
			}
			qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), unix.SIGKILL, host.Daemon{Env: gate.Env(gate.Kill(name))})))
			w.Dial()
			var err error
			if op == "wake" {
				_, err = w.API.Wake(t.Context(), &api.WakeRequest{Name: "survivor"}, nil)
			} else {
				_, err = w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "survivor"}, nil)
			}
			qt.Assert(t, qt.IsNotNil(err))
			_, err = w.WaitDaemon(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(w.StartDaemon(t.Context(), host.Daemon{})))
			w.Dial()
			w.nothingPartial()
			w.Hibernate("survivor") // wherever it was
			w.Wake("survivor")
			for _, thing := range things {
				s.ok("check %s", thing)
			}
		})
	}
}
