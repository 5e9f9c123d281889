package host

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/snapctl/snapctl/testenv"
)

// outputTime is how long the output of a command is waited for after its end,
// if something that it started still has it open.
const outputTime = 5 * time.Second

// Command prepares a program to run inside the host, as [exec.CommandContext]
// does. The process id is that of the program. PATH has the host's own
// programs first, and SNAPCTL_SOCKET names the daemon's socket.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"enter", h.Dir(), strconv.Itoa(h.KeeperPID()), "--", name}
	cmd := exec.CommandContext(ctx, h.Path("bin", "hostkeeper"), append(enter, args...)...)
	cmd.Env = append(os.Environ(),
		"PATH="+h.Path("bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
		"SNAPCTL_SOCKET="+SocketPath,
	)
	cmd.WaitDelay = outputTime
	return cmd
}

// Install puts a program of this module, such as "peer", on PATH inside the
// host and returns its path, which apps that see the machine's root see too.
func (h *Host) Install(ctx context.Context, name string) (string, error) {
	return testenv.Install(ctx, name, h.Path("bin"))
}

// Result is what a finished command left.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; -1 if a signal ended it
}

// Snapctl runs the command line tool inside the host. An exit status other
// than 0 is a result; an error is that the tool could not be run.
func (h *Host) Snapctl(ctx context.Context, args ...string) (Result, error) {
	path, err := h.Install(ctx, "snapctl")
	if err != nil {
		return Result{}, err
	}
	return Run(h.Command(ctx, path, args...))
}

// Run runs a command of [Host.Command] to its end. An exit status other than 0
// is a result.
func Run(cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.Code, err = exit.ExitCode(), nil
	}
	return r, err
}
