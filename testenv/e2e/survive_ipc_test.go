package e2e

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestIPCSurvives(t *testing.T) {
	survive(t, map[string]trial{
		"pipe": {}, "fifo": {}, "unix-stream": {}, "unix-messages": {}, "unix-listener": {}, "passed-fds": {}, "passed-file": {},
		"sysv": {}, "posix-shm": {}, "posix-sem": {}, "pty": {}, "pty-session": {}, "pty-queued": {},
	})
}

func TestEventsSurvive(t *testing.T) {
	survive(t, map[string]trial{
		"epoll": {}, "eventfd": {}, "timerfd": {}, "signalfd": {}, "inotify": {}, "inotify-shm": {},
	})
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
