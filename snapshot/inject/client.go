package inject

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is a process, a machine or a kernel in which no calls can be made.
var ErrUnsupported = errors.New("can't make system calls in the process")

// Tracer is the process that stops others. Its methods are for one goroutine at a time.
type Tracer struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   io.ReadCloser
	enc   *gob.Encoder
	dec   *gob.Decoder
	ended bool
}

// Start starts a tracer by the binary exe, whose main function calls [Serve] if its only argument is
// [Command]. It stops nothing yet: starting takes some milliseconds that nobody has to stand still
// for. The caller closes it.
func Start(ctx context.Context, exe string) (*Tracer, error) {
	// It has to finish what it does, whatever becomes of ctx.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), exe, Command)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start tracer: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start tracer: %w", err), in.Close())
	}
	return &Tracer{cmd: cmd, in: in, out: out, enc: gob.NewEncoder(in), dec: gob.NewDecoder(out)}, nil
}

// Open makes a system call in a process, whose threads stand still meanwhile, and returns the
// descriptor that the call opened. The process does not have it any more: nothing is left in it. The
// tracer has it until the next Open, or Close. The caller closes the file.
//
// A call that waits with a timeout, as poll(2) does, must not be made: the process may be in such a
// call itself, and the kernel has only one place in which it notes how to go on (restart_syscall(2)).
//
// Returns an error wrapping [ErrUnsupported] if the process can't be stopped, and the number of the
// call's own error. If it fails the process is as it was, and the tracer may have ended: then
// [Tracer.Ended] is true, and the caller closes it and starts another one.
func (t *Tracer) Open(pid int, call Call) (*os.File, error) {
	a, err := t.ask(request{pid, call})
	if err != nil {
		return nil, fmt.Errorf("make a system call in process %d: %w", pid, err)
	}
	fd, err := takeDescriptor(t.cmd.Process.Pid, a.Descriptor)
	if err != nil {
		return nil, fmt.Errorf("take the descriptor of process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("descriptor of process %d", pid)), nil
}

// Ended tells whether the tracer is of no more use.
func (t *Tracer) Ended() bool { return t.ended }

// Close ends the tracer. It may be called more than once.
func (t *Tracer) Close() error {
	if t.cmd.ProcessState != nil {
		return nil
	}
	t.ended = true
	err := t.in.Close()
	_, _ = io.Copy(io.Discard, t.out) // until it has ended
	if waitErr := t.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("tracer: %w", waitErr))
	}
	return err
}

func (t *Tracer) ask(r request) (*answer, error) {
	if t.ended {
		return nil, errors.New("the tracer has ended")
	}
	a := &answer{}
	err := t.enc.Encode(r)
	if err == nil {
		err = t.dec.Decode(a)
	}
	switch {
	case err != nil:
		t.ended = true
		return nil, fmt.Errorf("ask tracer: %w", err)
	case a.Ended:
		t.ended = true
	}
	switch {
	case a.Unsupported:
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, a.Err)
	case a.Errno != 0:
		return nil, unix.Errno(a.Errno)
	case a.Err != "":
		return nil, errors.New(a.Err)
	}
	return a, nil
}

// takeDescriptor duplicates a descriptor of a process.
func takeDescriptor(pid, number int) (int, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("open process: %w", err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing was written
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate descriptor %d: %w", number, err)
	}
	return fd, nil
}
