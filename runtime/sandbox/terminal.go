package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// FreeTerminal takes the given terminal away from the session of the program. The end of
// that session's leader would hang the terminal up: whoever has the master would be told
// that nobody is there any more, and what waits in the terminal would be lost
// (drivers/tty/tty_jobctrl.c, disassociate_ctty). It is for the moment before a saved app's
// processes end; at a restore the program gets the terminal back.
//
// Without a given terminal it does nothing. It needs CAP_SYS_ADMIN.
func (s *Sandbox) FreeTerminal(ctx context.Context) error {
	if s.Stdio.Terminal == "" {
		return nil
	}
	streams, err := s.OpenStdio()
	if err != nil {
		return err
	}
	defer streams.Close() //nolint:errcheck // nothing was written
	if err := freeInChild(ctx, streams[0]); err != nil {
		return fmt.Errorf("free terminal %s: %w", s.Stdio.Terminal, err)
	}
	return nil
}

// freeInChild has a child do it: only the leader of a session can take a terminal from
// another one (TIOCSCTTY with an argument of 1), and give it up again.
func freeInChild(ctx context.Context, terminal *os.File) error {
	request, err := newPipe()
	if err != nil {
		return err
	}
	defer request.Close()
	answer, err := newPipe()
	if err != nil {
		return err
	}
	defer answer.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", InitCommand)
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stdin = terminal
	cmd.ExtraFiles = []*os.File{request.r, answer.w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0} // with an argument of 1
	if err := cmd.Start(); err != nil {
		return err
	}
	err = json.NewEncoder(request.w).Encode(initConfig{FreeTerminal: true})
	err = errors.Join(err, request.w.Close(), answer.w.Close())
	text, rerr := io.ReadAll(answer.r)
	if len(text) > 0 {
		err = errors.Join(err, errors.New(string(text)))
	}
	return errors.Join(err, rerr, reaped(cmd.Wait()))
}

// freeTerminal is what the child does. The signals are for the foreground of the session
// that it ends: itself.
func freeTerminal() error {
	signal.Ignore(unix.SIGHUP, unix.SIGCONT)
	if err := unix.IoctlSetInt(0, unix.TIOCNOTTY, 0); err != nil {
		return fmt.Errorf("give up controlling terminal: %w", err)
	}
	return nil
}
