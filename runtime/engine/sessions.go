package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
)

// sessions are those of an app.
type sessions struct {
	mu   sync.Mutex
	list []checkpoint.Session
}

// begin adds a session; the returned function takes it away.
func (s *sessions) begin(pid int, args []string) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, checkpoint.Session{PID: pid, Args: args, Since: time.Now()})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.list = slices.DeleteFunc(s.list, func(one checkpoint.Session) bool { return one.PID == pid })
	}
}

// now are those that are going on.
func (s *sessions) now() []checkpoint.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// StartSession starts a command beside the app's processes, for somebody who waits for its end
// and then calls end. It is within the app's cgroup, so that a freeze stops it and an end ends
// it. pid is the root process into whose namespaces cmd was made to go. StartSession takes the
// app's turn: nothing is frozen meanwhile. args are by what the command is known to users.
func (a *App) StartSession(ctx context.Context, cmd *exec.Cmd, pid int, args []string) (end func(), err error) {
	release, err := a.Take(ctx, "exec")
	if err != nil {
		return nil, err
	}
	defer release()
	if rec, _ := a.Read(); rec.Process.PID != pid {
		// By now its number may be another process's, in the host's namespaces.
		return nil, Refusef("exec in %s: its processes have ended meanwhile; try again", a.Name())
	}
	if err := a.Box.StartCommand(cmd, pid); err != nil {
		return nil, fmt.Errorf("exec in %s: %w", a.Name(), err)
	}
	return a.sessions.begin(cmd.Process.Pid, args), nil
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
	return fmt.Sprintf("`snapctl exec` runs %q in it since %s", strings.Join(one.Args, " "), one.Since.UTC().Format(time.RFC3339))
}

// hangUpTime is how long the processes of a session have to end by themselves.
const hangUpTime = 3 * time.Second

// EndSessions ends the exec sessions of an app, and what they have started: by SIGHUP, as
// when a terminal is closed, and what is left then by SIGKILL.
func (a *App) EndSessions(ctx context.Context) error {
	release, err := a.Take(ctx, "end sessions")
	if err != nil {
		return err
	}
	defer release()
	rec, _ := a.Read()
	if rec.Now() != app.Running {
		return nil
	}
	pids, err := a.Cgroup().PIDs()
	if err != nil {
		return err
	}
	first, others := checkpoint.Outsiders(rec.Process.PID, pids)
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
