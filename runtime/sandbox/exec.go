package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// gateScript waits for a line on descriptor 3 and becomes its arguments. A shell
// does it, since a Go program could not start its threads in an app that has as
// many as it may.
const gateScript = `read -r _ <&3 && exec "$@" 3<&-`

// Command returns a command that runs in the app's namespaces, next to its
// processes, as p says; it is for StartCommand to start. If ctx ends, it is
// killed.
//
// Entering a time namespace needs a process with a single thread (EUSERS
// otherwise, setns(2)), which no Go program is: util-linux's nsenter does it.
func (s *Sandbox) Command(ctx context.Context, pid int, p *specs.Process) (*exec.Cmd, error) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, fmt.Errorf("find nsenter (package util-linux): %w", err)
	}
	args := []string{
		"-c", gateScript, "sh", nsenter, "--target", strconv.Itoa(pid),
		"--mount", "--uts", "--ipc", "--net", "--cgroup", "--time", "--root",
		"--setuid", strconv.Itoa(int(p.User.UID)), "--setgid", strconv.Itoa(int(p.User.GID)),
	}
	if p.Cwd != "" {
		args = append(args, "--wdns="+p.Cwd) // util-linux 2.38
	} else {
		args = append(args, "--wd")
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append(append(args, "--"), p.Args...)...)
	cmd.Env = p.Env
	return cmd, nil
}

// StartCommand starts a command of Command beside the app's process pid, in the
// app's cgroup: it does nothing before it is there, so that none of its
// processes escapes a limit or a freeze. It leads a session within the app's
// pid namespace: what it leaves behind there could not be saved by CRIU if its
// session were outside (cr-dump.c, "A session leader of zombie process").
// If it fails the command has ended.
func (s *Sandbox) StartCommand(cmd *exec.Cmd, pid int) error {
	gate, err := newPipe()
	if err != nil {
		return err
	}
	defer gate.Close()
	cmd.ExtraFiles = []*os.File{gate.r}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := startInPIDNS(cmd, pid); err != nil {
		return err
	}
	err = s.group.Add(cmd.Process.Pid)
	if err == nil {
		_, err = gate.w.WriteString("\n")
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), reaped(cmd.Wait()))
	}
	return nil
}

// startInPIDNS starts a command in the pid namespace of a process. The thread
// that has it for its children ends afterwards.
func startInPIDNS(cmd *exec.Cmd, pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return fmt.Errorf("open pid namespace: %w", err)
	}
	defer ns.Close() //nolint:errcheck // a handle
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()                                              //nolint:forbidigo // not unlocked: the thread dies with this goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil { //nolint:forbidigo // a pid namespace, not a network one
			done <- fmt.Errorf("enter pid namespace: %w", err)
			return
		}
		done <- cmd.Start()
	}()
	return <-done
}
