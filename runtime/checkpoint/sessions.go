package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/process"
)

// Outsiders are the processes in an app's cgroup that are not of the tree of its root process:
// those of exec sessions. first are those with which the sessions began, others the rest.
func Outsiders(root int, pids []int) (first, others []int) {
	parents := make(map[int]int, len(pids))
	for _, pid := range pids {
		if ppid, err := process.ParentOf(pid); err == nil {
			parents[pid] = ppid
		}
	}
	for pid, ppid := range parents {
		if _, inside := parents[ppid]; pid != root && !inside {
			first = append(first, pid)
		}
	}
	for pid := range parents {
		for up, ok := pid, true; ok; up, ok = parents[up] {
			if pid != up && slices.Contains(first, up) {
				others = append(others, pid)
				break
			}
		}
	}
	slices.Sort(first)
	slices.Sort(others)
	return first, others
}

// SessionError is an app that can't be saved since somebody is at work in it.
type SessionError struct {
	PID     int    // on the host
	Command string // empty: not known, since another daemon began it
	Since   time.Time
}

// Error implements error.
func (e *SessionError) Error() string {
	if e.Command == "" {
		return fmt.Sprintf("process %d runs by `snapctl exec`, and can't be saved", e.PID)
	}
	return fmt.Sprintf("process %d runs %q by `snapctl exec` since %s, and can't be saved", e.PID, e.Command, e.Since.UTC().Format(time.RFC3339))
}

// Unwrap gives what it is to a client.
func (e *SessionError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// unattended refuses an app in which exec sessions are going on, and returns the
// processes that are its own.
func (s *Subject) unattended(pids []int) (own []int, err error) {
	first, others := Outsiders(s.PID, pids)
	var errs []error
	for _, pid := range first {
		e := &SessionError{PID: pid}
		if i := slices.IndexFunc(s.Sessions, func(one Session) bool { return one.PID == pid }); i >= 0 {
			e.Command, e.Since = strings.Join(s.Sessions[i].Args, " "), s.Sessions[i].Since
		}
		errs = append(errs, e)
	}
	own = slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return slices.Contains(first, pid) || slices.Contains(others, pid) })
	return own, errors.Join(errs...)
}
