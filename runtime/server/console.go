package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
)

// console is the daemon's side of an exec's input and output: pipes, or a
// pseudo-terminal of the host's, which the command sees as its own.
type console struct {
	in       io.WriteCloser
	terminal *os.File // the master; nil: pipes
	slave    *os.File // closed once the command has it
}

// connectIO gives a command, which is not started yet, its input and output.
func connectIO(cmd *exec.Cmd, start *api.ExecStart, out *execOutput) (*console, error) {
	if !start.GetTty() {
		cmd.Stdout, cmd.Stderr = out.writer(wrapStdout), out.writer(wrapStderr)
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("make pipe: %w", err)
		}
		return &console{in: in}, nil
	}
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("make terminal: %w", err)
	}
	c := &console{in: master, terminal: master, slave: slave}
	c.resize(start)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return c, nil
}

// resize tells the terminal its size; there may be none.
func (c *console) resize(size *api.ExecStart) {
	if c.terminal != nil && size.GetRows() > 0 {
		_ = pty.Setsize(c.terminal, &pty.Winsize{Rows: uint16(size.GetRows()), Cols: uint16(size.GetColumns())}) // cosmetic
	}
}

// drain copies a terminal's output until the command, process pid, has ended and all
// was read; pipes are copied by package exec. What the command leaves running keeps
// the terminal open, but not the session.
func (c *console) drain(out *execOutput, pid int) error {
	if c.terminal == nil {
		return nil
	}
	_ = c.slave.Close() // the command has its own
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	to, buf := out.writer(wrapStdout), make([]byte, 32<<10)
	for {
		ready := []unix.PollFd{{Fd: int32(c.terminal.Fd()), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return fmt.Errorf("wait for a terminal: %w", err)
		}
		if ready[0].Revents == 0 {
			return nil // the command has ended
		}
		n, err := c.terminal.Read(buf)
		if err != nil {
			return nil // EIO: the last user of the terminal is gone
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return nil // the client is gone, and the command is ended
		}
	}
}

// closeInput tells the command that no more input comes. A terminal gets the
// end-of-file character instead.
func (c *console) closeInput() {
	if c.terminal != nil {
		_, _ = c.terminal.Write([]byte{4}) // it may be gone
		return
	}
	_ = c.in.Close() // the command may have closed it
}

// Close releases the terminal.
func (c *console) Close() error {
	if c.terminal == nil {
		return nil
	}
	_ = c.slave.Close() // usually closed already
	return c.terminal.Close()
}
