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

	"github.com/snapctl/snapctl/vem/netns"
)

// InitCommand is the hidden command of snapctld that becomes an app's first
// process, see [Init].
const InitCommand = "sandbox-init"

// Start runs the app's program in new namespaces, with the given network
// namespace. It returns when the program has been executed; if that fails,
// nothing is left of it.
func (s *Sandbox) Start(ctx context.Context, ns *netns.NS) (_ *Process, err error) {
	config, err := json.Marshal(initConfig{Spec: s.Spec, Root: s.Root(), Dev: s.Dev()})
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	log, err := s.OpenLog()
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the app has its own
	// request carries the config and then a byte once the process is in its
	// cgroup; answer carries an error text, or ends when the program runs.
	request, err := newPipe()
	if err != nil {
		return nil, err
	}
	defer request.Close()
	answer, err := newPipe()
	if err != nil {
		return nil, err
	}
	defer answer.Close()

	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", InitCommand)
	cmd.Args[0] = "snapctl-init"
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{request.r, answer.w}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, // CRIU refuses a session that leads outside the pid namespace
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
			unix.CLONE_NEWTIME,
	}
	err = ns.Do(func() error {
		runtime.LockOSThread() //nolint:forbidigo // once more than Do unlocks it: the thread dies with Do's goroutine
		return s.group.Start(cmd)
	})
	if err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cmd.Process.Kill(), reaped(cmd.Wait()))
		}
	}()
	if err := errors.Join(request.r.Close(), answer.w.Close()); err != nil {
		return nil, err
	}
	if _, err := request.w.Write(append(config, '\n')); err != nil {
		return nil, fmt.Errorf("send spec: %w", err)
	}
	if err := request.w.Close(); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(answer.r)
	if err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	if len(text) > 0 {
		return nil, fmt.Errorf("start sandbox: %s", text)
	}
	p, err := OpenProcess(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
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
