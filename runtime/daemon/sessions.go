package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/process"
)

// session is one `snapctl exec` that is going on. Its processes are in the app's cgroup
// and namespaces, but not of the app: their parent is the daemon, and their input and
// output lead to it. So they are not saved.
type session struct {
	pid   int // its first process
	args  []string
	since time.Time
}

// sessions are those of an app.
type sessions struct {
	mu   sync.Mutex
	list []session
}

// begin adds a session; the returned function takes it away.
func (s *sessions) begin(pid int, args []string) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, session{pid: pid, args: args, since: time.Now()})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.list = slices.DeleteFunc(s.list, func(one session) bool { return one.pid == pid })
	}
}

// find returns the session whose first process is pid.
func (s *sessions) find(pid int) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.list, func(one session) bool { return one.pid == pid })
	if i < 0 {
		return session{}, false
	}
	return s.list[i], true
}

// attended says that somebody is at work in the app by `snapctl exec`, so that it is not
// idle; it is empty if nobody is.
func (a *App) attended() string {
	a.sessions.mu.Lock()
	defer a.sessions.mu.Unlock()
	if len(a.sessions.list) == 0 {
		return ""
	}
	one := a.sessions.list[0]
	return fmt.Sprintf("`snapctl exec` runs %q in it since %s", strings.Join(one.args, " "), one.since.UTC().Format(time.RFC3339))
}

// outsiders are the processes in an app's cgroup that are not of the tree of its root
// process: those of exec sessions. The first ones of the sessions come first.
func outsiders(root int, pids []int) (first, others []int) {
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
func (a *App) unattended(root int, pids []int) (own []int, err error) {
	first, others := outsiders(root, pids)
	var errs []error
	for _, pid := range first {
		e := &SessionError{PID: pid}
		if one, ok := a.sessions.find(pid); ok {
			e.Command, e.Since = strings.Join(one.args, " "), one.since
		}
		errs = append(errs, e)
	}
	own = slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return slices.Contains(first, pid) || slices.Contains(others, pid) })
	return own, errors.Join(errs...)
}

// hangUpTime is how long the processes of a session have to end by themselves.
const hangUpTime = 3 * time.Second

// endSessions ends the exec sessions of an app, and what they have started: by SIGHUP, as
// when a terminal is closed, and what is left then by SIGKILL.
func (a *App) endSessions(ctx context.Context) error {
	release, err := a.Take(ctx, "end sessions")
	if err != nil {
		return err
	}
	defer release()
	rec, _ := a.Read()
	if rec.Status != app.Running {
		return nil
	}
	pids, err := a.cgroup().PIDs()
	if err != nil {
		return err
	}
	first, others := outsiders(rec.Process.PID, pids)
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd) //nolint:errcheck // nothing was written
		}
	}()
	// By pidfd: a session that has ended meanwhile leaves its number to others.
	for _, pid := range append(first, others...) {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("end session, process %d: %w", pid, err)
		}
		fds = append(fds, fd)
	}
	deadline := time.Now().Add(hangUpTime)
	for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGCONT, unix.SIGKILL} {
		for _, fd := range fds {
			if signal == unix.SIGKILL {
				awaitEnd(ctx, fd, deadline)
			}
			if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end session: %w", err)
			}
		}
	}
	for _, fd := range fds {
		awaitEnd(ctx, fd, time.Now().Add(hangUpTime))
	}
	return cmp.Or(ctx.Err(), nil)
}

// awaitEnd waits until a process has ended, at the longest until the deadline.
func awaitEnd(ctx context.Context, pidfd int, deadline time.Time) {
	for ctx.Err() == nil {
		left := min(time.Until(deadline), 100*time.Millisecond) // then ctx is looked at
		if left < 0 {
			return
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left/time.Millisecond))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
