package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cmd/survivor/internal/script"
)

// relative is a child process, with pipes to talk to it.
type relative struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a program that answers each line with a line. It lives as long
// as the survivor, which never waits for it.
func start(attr *syscall.SysProcAttr, name string, args ...string) (*relative, error) {
	cmd := exec.Command(name, args...) //nolint:noctx // outlives every context
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &relative{cmd, in, bufio.NewReader(out)}, cmd.Start()
}

func (r *relative) pid() int { return r.cmd.Process.Pid }

// line is the next line that the child writes.
func (r *relative) line() (string, error) {
	s, err := r.out.ReadString('\n')
	return strings.TrimSpace(s), err
}

// ask sends a line and returns the answer.
func (r *relative) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(r.in, line); err != nil {
		return "", err
	}
	return r.line()
}

// python makes a thing of a script that says "ready", waits for a line, and
// then says "ok" or what is wrong.
func python(text string) setup {
	return func() (check, error) {
		p, err := start(nil, "python3", "-c", script.Start+text)
		if err != nil {
			return nil, err
		}
		said, err := p.line()
		if err != nil {
			return nil, err
		}
		if err := same("what the script said", said, "ready"); err != nil {
			return nil, err
		}
		return func(arg string) error {
			said, err := p.ask(arg)
			return errors.Join(err, same("what the script said", said, "ok"))
		}, nil
	}
}

// child is a process of the tree. It tells who it is when asked, and starts a
// child of its own when it is told to.
func child() error {
	lines := bufio.NewScanner(os.Stdin)
	var below *relative
	for lines.Scan() {
		switch words := strings.Fields(lines.Text()); words[0] {
		case "who":
			sid, err := unix.Getsid(0)
			fmt.Println("pid", os.Getpid(), "parent", os.Getppid(), "group", unix.Getpgrp(), "session", sid, errors.Join(err))
		case "fork":
			var err error
			attr := &syscall.SysProcAttr{Setsid: words[1] == "session", Setpgid: words[1] == "group"}
			if below, err = start(attr, "/proc/self/exe", "child"); err != nil {
				return err
			}
			fmt.Println(below.pid())
		case "below":
			answer, err := below.ask(strings.Join(words[1:], " "))
			if err != nil {
				return err
			}
			fmt.Println(answer)
		}
	}
	return lines.Err()
}

// tree makes four generations with sessions and groups of their own.
func tree() (check, error) {
	top, err := start(&syscall.SysProcAttr{Setsid: true}, "/proc/self/exe", "child")
	if err != nil {
		return nil, err
	}
	questions := []string{"who", "below who", "below below who"}
	for _, command := range []string{"fork group", "below fork session"} {
		if _, err := top.ask(command); err != nil {
			return nil, err
		}
	}
	ask := func() (string, error) {
		var all []string
		for _, q := range questions {
			answer, err := top.ask(q)
			if err != nil {
				return "", err
			}
			all = append(all, answer)
		}
		return strings.Join(all, "\n"), nil
	}
	before, err := ask()
	return func(string) error {
		after, err := ask()
		return errors.Join(err, same("the family", after, before))
	}, err
}

// group has children that have ended but are not waited for, and that stand
// still.
func group() (check, error) {
	dead, err := start(&syscall.SysProcAttr{Setpgid: true}, "sh", "-c", "exit 7")
	if err != nil {
		return nil, err
	}
	if _, err := dead.line(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the child has not ended: %w", err)
	}
	still, err := start(&syscall.SysProcAttr{Setpgid: true, Pgid: 0}, "/proc/self/exe", "child")
	if err != nil {
		return nil, err
	}
	if _, err := still.ask("who"); err != nil {
		return nil, err
	}
	if err := unix.Kill(still.pid(), unix.SIGSTOP); err != nil {
		return nil, err
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, still.pid(), &info, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		return nil, err
	}
	return func(string) error {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", still.pid()))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(state), ") ")
		if err := same("state of the stopped child", rest[:1], "T"); err != nil {
			return err
		}
		if err := unix.Kill(-still.pid(), unix.SIGCONT); err != nil {
			return err
		}
		if _, err := still.ask("who"); err != nil {
			return err
		}
		var status unix.WaitStatus
		pid, err := unix.Wait4(dead.pid(), &status, 0, nil)
		return errors.Join(err, same("the dead child", pid, dead.pid()), same("its exit status", status.ExitStatus(), 7))
	}, nil
}

// threads have names, numbers, signal masks and priorities of their own.
func threads() (check, error) {
	const n = 8
	ask, tell := make([]chan struct{}, n), make(chan string)
	for i := range n {
		ask[i] = make(chan struct{})
		ready := make(chan error)
		go func() {
			runtime.LockOSThread()
			tid := unix.Gettid()
			mask := &unix.Sigset_t{}
			mask.Val[0] = 1 << (40 + i)
			err := errors.Join(
				unix.PthreadSigmask(unix.SIG_BLOCK, mask, nil),
				unix.Setpriority(unix.PRIO_PROCESS, tid, i),
				os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", tid), fmt.Appendf(nil, "thread-%d", i), 0),
			)
			ready <- err
			for range ask[i] {
				tell <- describeThread()
			}
		}()
		if err := <-ready; err != nil {
			return nil, err
		}
	}
	all := func() string {
		var b strings.Builder
		for i := range n {
			ask[i] <- struct{}{}
			b.WriteString(<-tell + "\n")
		}
		return b.String()
	}
	before := all()
	return func(string) error { return same("the threads", all(), before) }, nil
}

func describeThread() string {
	tid := unix.Gettid()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", tid))
	if err != nil {
		return err.Error()
	}
	var mask unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &mask); err != nil {
		return err.Error()
	}
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s %x %d", tid, strings.TrimSpace(string(comm)), mask.Val[0], nice)
}
