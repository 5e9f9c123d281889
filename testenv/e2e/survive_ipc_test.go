package e2e

import (
	"context"
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

func TestIPCSurvives(t *testing.T) {
	survive(t, map[string]trial{
		"pipe": {}, "fifo": {}, "unix-stream": {}, "unix-messages": {}, "unix-listener": {}, "passed-fds": {}, "passed-file": {},
		"sysv": {}, "posix-shm": {}, "posix-sem": {}, "pty": {}, "pty-session": {}, "pty-shell": {}, "pty-queued": {}, "pty-waiting": {},
	})
}

func TestEventsSurvive(t *testing.T) {
	var semaphore trial
	if err := showsSemaphores(t.Context()); err != nil {
		semaphore.noCopy = err.Error()
	}
	survive(t, map[string]trial{
		"epoll": {}, "connections": {}, "eventfd": {}, "eventfd-semaphore": semaphore, "timerfd": {}, "timerfd-absolute": {}, "signalfd": {}, "inotify": {}, "inotify-shm": {},
	})
}

// TestUnreadInotifySurvives has events wait that the app has not read, in its
// own files and in a directory of the host, where more come while it has no
// process. A snapshot is refused: what an app goes on to read nobody can copy.
func TestUnreadInotifySurvives(t *testing.T) {
	w := New(t)
	for name, ordeal := range ordeals(t) {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			dir := w.hostDir("watched")
			s := w.survivor("survivor", &api.Bind{Source: dir, Destination: "/bind"})
			s.ok("setup inotify-queued")
			s.ok("setup inotify-bind")
			_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
			qt.Assert(t, qt.ErrorMatches(err, `(?s).*inotify instance with events that wait to be read open as descriptor \d+: try again.*`))
			w.Hibernate("survivor")
			qt.Assert(t, qt.IsNil(os.WriteFile(dir+"/watched/during", nil, 0o600)))
			w.Wake("survivor")
			ordeal(w, "survivor")
			s.ok("check inotify-queued")
			s.ok("check inotify-bind")
		})
	}
}

// showsSemaphores is met by kernels that show which eventfds have EFD_SEMAPHORE.
// Before, only a held one keeps it.
func showsSemaphores(ctx context.Context) error { return testenv.Kernel(6, 6)(ctx) }

// TestCountingEventfdSurvivesReboot has an app wake without what was held.
func TestCountingEventfdSurvivesReboot(t *testing.T) {
	testenv.Need(t, showsSemaphores)
	w := New(t)
	s := w.survivor("survivor")
	s.ok("setup eventfd")
	s.ok("setup eventfd-semaphore")
	w.Hibernate("survivor")
	w.loseHolder()
	w.Wake("survivor")
	s = w.control(survivorEndpoint)
	s.ok("check eventfd")
	s.ok("check eventfd-semaphore")
}

// TestSemUndoIsLost shows the one thing that is lost without a word: what
// semop(2) with SEM_UNDO would give back at a process's end. The kernel shows it
// to nobody, so that CRIU can't save it (ipc_ns.c), nor snapctl refuse it.
func TestSemUndoIsLost(t *testing.T) {
	w := New(t)
	s := w.survivor("survivor")
	s.ok("setup sysv-undo")
	w.Hibernate("survivor")
	w.Wake("survivor")
	qt.Assert(t, qt.StringContains(s.ask("check sysv-undo"), "semaphore after undo is 3, want 5"))
}
