package engine

import (
	"context"
	"fmt"
	"os/exec"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/process"
)

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
		return nil, app.Refusef("exec in %s: its processes have ended meanwhile; try again", a.Name())
	}
	if err := a.Box.StartCommand(cmd, pid); err != nil {
		return nil, fmt.Errorf("exec in %s: %w", a.Name(), err)
	}
	return a.sessions.Begin(cmd.Process.Pid, args), nil
}

// Attended says that somebody is at work in the app by `snapctl exec`, so that it is not
// idle; it is empty if nobody is.
func (a *App) Attended() string { return a.sessions.First() }

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
	return process.HangUp(ctx, append(first, others...))
}
