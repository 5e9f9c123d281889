package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/vem/netns"
)

// InitCommand is the hidden command of snapctld that becomes an app's first
// process, see [Init].
const InitCommand = "sandbox-init"

// Launch is an app's first process before it is told what it runs.
type Launch struct {
	box             *Sandbox
	cmd             *exec.Cmd
	request, answer pipe
}

// Launch starts the app's first process in new namespaces, with the given network
// namespace, which Enclose has returned. It takes the process some ms to be ready, in
// which the caller can make the rest of the sandbox. The caller closes it.
func (s *Sandbox) Launch(ctx context.Context, ns *netns.NS) (_ *Launch, err error) {
	streams, err := s.OpenStdio()
	if err != nil {
		return nil, err
	}
	defer streams.Close() //nolint:errcheck // the app has its own
	l := &Launch{box: s}
	// request carries the config; answer carries an error text, or ends when the
	// program runs.
	if l.request, err = newPipe(); err != nil {
		return nil, err
	}
	if l.answer, err = newPipe(); err != nil {
		l.request.Close()
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", InitCommand)
	cmd.Args[0] = "snapctl-init"
	cmd.Env = []string{"GOMAXPROCS=1"}
	if streams[0] != nil {
		cmd.Stdin = streams[0]
	}
	cmd.Stdout, cmd.Stderr = streams[1], streams[2]
	cmd.ExtraFiles = []*os.File{l.request.r, l.answer.w}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, // CRIU refuses a session that leads outside the pid namespace
		// Its mount namespace it makes when the mounts are there that it is to have.
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWTIME,
	}
	if s.Stdio.Terminal != "" {
		cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, 0
	}
	err = ns.Do(func() error {
		runtime.LockOSThread() //nolint:forbidigo // once more than Do unlocks it: the thread dies with Do's goroutine
		return s.group.Start(cmd)
	})
	if err != nil {
		l.closePipes()
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	l.cmd = cmd
	return l, nil
}

// Close ends the process, unless Run has made it the program. A second call does
// nothing.
func (l *Launch) Close() error {
	defer l.closePipes()
	cmd := l.cmd
	l.cmd = nil
	if cmd == nil {
		return nil
	}
	return errors.Join(cmd.Process.Kill(), reaped(cmd.Wait()))
}

func (l *Launch) closePipes() {
	l.request.Close()
	l.answer.Close()
}

// Run makes the process the app's program, once all of the sandbox is there. It
// returns when the program has been executed. It is called once, and closes l.
func (l *Launch) Run() (_ *process.Process, err error) {
	defer func() { err = errors.Join(err, l.Close()) }()
	config, err := json.Marshal(initConfig{
		Spec: l.box.Spec, Root: l.box.Root(), Dev: l.box.Dev(), Views: l.box.Views(), Stdin: l.box.Stdio.Stdin != "" || l.box.Stdio.Terminal != "",
	})
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	if err := errors.Join(l.request.r.Close(), l.answer.w.Close()); err != nil {
		return nil, err
	}
	if _, err := l.request.w.Write(append(config, '\n')); err != nil {
		return nil, fmt.Errorf("send spec: %w", err)
	}
	if err := l.request.w.Close(); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(l.answer.r)
	if err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	if len(text) > 0 {
		return nil, fmt.Errorf("start sandbox: %s", text)
	}
	p, err := process.Open(l.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	cmd := l.cmd
	l.cmd = nil
	return p, cmd.Process.Release() // Process.Wait reaps it
}

// reaped drops the exit status of a process that was killed on purpose.
func reaped(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

type pipe struct{ r, w *os.File }

func newPipe() (pipe, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return pipe{}, fmt.Errorf("make pipe: %w", err)
	}
	return pipe{r, w}, nil
}

func (p pipe) Close() {
	_ = p.r.Close() // may be closed already
	_ = p.w.Close()
}
