package e2e

import "testing"

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
