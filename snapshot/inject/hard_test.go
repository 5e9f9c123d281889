package inject_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/snapshot/inject"
)

// acceptor is a process that sleeps, and its stdin, which listens.
func acceptor(t *testing.T) (pid int, server *os.File) {
	t.Helper()
	cmd := process(t, "sleep", "1000")
	server = listen(t)
	cmd.Stdin = server
	pid = start(t, cmd)
	awaitSleep(t, pid)
	return pid, server
}

// The daemon ends while a call is made, so that nobody takes the descriptor: nothing is left in the
// process, and the tracer ends.
func TestDaemonEndsDuringCall(t *testing.T) {
	pid, server := acceptor(t)
	before := inside(t, pid)
	tr := tracer(t)
	done := accepting(t, tr, pid)
	qt.Assert(t, qt.IsNil(tr.Die()))
	qt.Check(t, qt.IsNotNil(<-done))
	dial(t, server)
	await(t, "it is let go of", func() bool { return field(t, pid, "TracerPid") == "0" })
	qt.Check(t, qt.Equals(inside(t, pid), before))
	await(t, "it sleeps on", func() bool { return state(t, pid) == "S" })
	qt.Check(t, qt.IsNotNil(tr.Wait()))
}

// A process with many threads is killed during a call: that is told at once, and there is nothing to
// put back.
func TestKilled(t *testing.T) {
	cmd := process(t, "/proc/self/exe", "many")
	server := listen(t)
	cmd.Stdin = server
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	pid := start(t, cmd)
	qt.Assert(t, qt.IsTrue(bufio.NewScanner(out).Scan()))
	tr := tracer(t)
	done := accepting(t, tr, pid)
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGKILL)))
	qt.Check(t, qt.ErrorMatches(<-done, "(?s).*has ended.*"))
	qt.Check(t, qt.IsNil(tr.Close()))
}

// Job control while a process is stopped by us has the end that it has without us.
func TestJobControl(t *testing.T) {
	for name, test := range map[string]struct {
		before, during []unix.Signal
		want           string
	}{
		"nothing":           {want: "S"},
		"stopped":           {before: []unix.Signal{unix.SIGSTOP}, want: "T"},
		"continued":         {before: []unix.Signal{unix.SIGSTOP}, during: []unix.Signal{unix.SIGCONT}, want: "S"},
		"stop":              {during: []unix.Signal{unix.SIGSTOP}, want: "T"},
		"stop and continue": {during: []unix.Signal{unix.SIGSTOP, unix.SIGCONT}, want: "S"},
		"continue":          {during: []unix.Signal{unix.SIGCONT}, want: "S"},
		"continue and stop": {during: []unix.Signal{unix.SIGCONT, unix.SIGSTOP}, want: "T"},
	} {
		t.Run(name, func(t *testing.T) {
			pid, server := acceptor(t)
			for _, s := range test.before {
				qt.Assert(t, qt.IsNil(unix.Kill(pid, s)))
				await(t, "it is stopped", func() bool { return state(t, pid) == "T" })
			}
			tr := tracer(t)
			done := accepting(t, tr, pid)
			for _, s := range test.during {
				qt.Assert(t, qt.IsNil(unix.Kill(pid, s)))
				// accept4(2) is restarted after the signal.
				await(t, "it accepts again", func() bool { return state(t, pid) == "S" && inCall(pid, unix.SYS_ACCEPT4) })
			}
			dial(t, server)
			qt.Assert(t, qt.IsNil(<-done))
			qt.Assert(t, qt.IsNil(tr.Close()))
			await(t, "its state is "+test.want, func() bool { return state(t, pid) == test.want })
		})
	}
}

// What can't be stopped, or can't make calls, is an error that says so, and all is let go of when the
// tracer has ended.
func TestUnfit(t *testing.T) {
	for name, want := range map[string]string{
		"vfork":    ".*: thread .* waits for a child that it has made with vfork.*",
		"leader":   ".*: can't make system calls in the process: its first thread has ended",
		"dispatch": ".*: can't make system calls in the process: thread .* has its system calls dispatched by itself.*",
	} {
		t.Run(name, func(t *testing.T) {
			pid := helper(t, "/proc/self/exe", name)
			tr := tracer(t)
			_, err := tr.Open(pid, event(1))
			qt.Check(t, qt.ErrorMatches(err, want))
			qt.Check(t, qt.ErrorIs(err, inject.ErrUnsupported))
			qt.Check(t, qt.IsTrue(tr.Ended()))
			qt.Check(t, qt.IsNil(tr.Close()))
			qt.Check(t, qt.Equals(field(t, pid, "TracerPid"), "0"))
		})
	}
}

// A process at its limit of open files can't open one more, and one at its limit of memory can: calls
// need none.
func TestLimits(t *testing.T) {
	pid := helper(t, "sh", "-c", "ulimit -n 3; echo ready; read x")
	tr := tracer(t)
	_, err := tr.Open(pid, event(1))
	qt.Check(t, qt.ErrorIs(err, error(unix.EMFILE)))
	pid = helper(t, "sh", "-c", "ulimit -v 1; echo ready; read x")
	open(t, tr, pid, 1)
	qt.Check(t, qt.IsNil(tr.Close()))
}

// A call that was interrupted is restarted: a sleep by the kernel's note of when it ends, a read as it
// was.
func TestRestart(t *testing.T) {
	r, w, err := os.Pipe()
	qt.Assert(t, qt.IsNil(err))
	defer r.Close()
	defer w.Close()
	cmd := process(t, "head", "-c", "1")
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	pid := start(t, cmd)
	await(t, "it reads", func() bool { return inCall(pid, unix.SYS_READ) && field(t, pid, "Name") == "head" })
	sleeping := start(t, process(t, "/proc/self/exe", "sleep"))
	await(t, "it sleeps", func() bool { return inCall(sleeping, unix.SYS_NANOSLEEP) })
	tr := tracer(t)
	for range 10 {
		open(t, tr, pid, 1)
		open(t, tr, sleeping, 1)
	}
	await(t, "it reads on", func() bool { return state(t, pid) == "S" && inCall(pid, unix.SYS_READ) })
	await(t, "it sleeps on", func() bool { return state(t, sleeping) == "S" && inCall(sleeping, unix.SYS_RESTART_SYSCALL) })
	_, err = w.WriteString("x")
	qt.Assert(t, qt.IsNil(err))
	said, err := io.ReadAll(out)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(said), "x"))
}

// highest is above all descriptors of a program.
const highest = 32

// forkAndCount has a child that ends with the number of its descriptors which this process did not have
// before.
func forkAndCount() int {
	var before [highest]bool
	for fd := range before {
		before[fd] = isOpen(fd)
	}
	child, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		panic(errno)
	}
	if child == 0 {
		more := 0
		for fd := range before {
			if isOpen(fd) && !before[fd] {
				more++
			}
		}
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(more), 0, 0)
		}
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(int(child), &status, 0, nil); err != unix.EINTR {
			must(err)
			return status.ExitStatus()
		}
	}
}

//go:nosplit
func isOpen(fd int) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFD, 0)
	return errno == 0
}

// A process that forks without a pause never gives the descriptor to a child.
func TestForks(t *testing.T) {
	cmd := process(t, "/proc/self/exe", "fork")
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	pid := start(t, cmd)
	lines := bufio.NewScanner(out)
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	tr := tracer(t)
	for i := range uint64(200) {
		open(t, tr, pid, i)
	}
	qt.Assert(t, qt.IsNil(in.Close()))
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	qt.Check(t, qt.Equals(lines.Text(), "done"))
}

// A process that is frozen can't make calls. It is left as it was, and goes on when it is thawed.
func TestFrozen(t *testing.T) {
	pid := sleeper(t)
	before := inside(t, pid)
	c := cgroup(t, pid)
	qt.Assert(t, qt.IsNil(c.Freeze(t.Context())))
	tr := tracer(t)
	_, err := tr.Open(pid, event(1))
	qt.Check(t, qt.ErrorIs(err, inject.ErrUnsupported))
	qt.Check(t, qt.IsNil(tr.Close()))
	qt.Check(t, qt.Equals(field(t, pid, "TracerPid"), "0"))
	qt.Assert(t, qt.IsNil(c.Thaw()))
	qt.Check(t, qt.Equals(inside(t, pid), before))
	await(t, "it sleeps on", func() bool { return state(t, pid) == "S" && inCall(pid, unix.SYS_RESTART_SYSCALL) })
	tr = tracer(t)
	open(t, tr, pid, 1)
}

// cgroup makes one with a process in it.
func cgroup(t *testing.T, pid int) freezer.Cgroup {
	t.Helper()
	root := "/sys/fs/cgroup"
	var s unix.Statfs_t
	qt.Assert(t, qt.IsNil(unix.Statfs(root, &s)))
	if s.Type != unix.CGROUP2_SUPER_MAGIC {
		root += "/unified"
	}
	c := freezer.Cgroup(filepath.Join(root, fmt.Sprintf("inject-%d", pid)))
	qt.Assert(t, qt.IsNil(os.Mkdir(string(c), 0o755)))
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(c.Kill(context.WithoutCancel(t.Context()))))
		qt.Check(t, qt.IsNil(os.Remove(string(c))))
	})
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(string(c), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)))
	return c
}

// helper starts a program, and waits until it says that it is ready.
func helper(t *testing.T, args ...string) (pid int) {
	t.Helper()
	cmd := process(t, args...)
	_, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	pid = start(t, cmd)
	lines := bufio.NewScanner(out)
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	qt.Assert(t, qt.Equals(lines.Text(), "ready"))
	return pid
}

// helpers are programs that are hard to stop, by the argument that this binary is given. They run on
// the process's first thread.
var helpers = map[string]func(){
	targetCommand: target,
	"many": func() {
		for range 20 {
			go func() {
				runtime.LockOSThread() //nolint:forbidigo // it has a thread
				select {}
			}()
			go func() {
				for {
					runtime.Gosched()
				}
			}()
		}
		fmt.Fprintln(os.Stdout, "ready")
		select {}
	},
	"signals": func() {
		heard := make(chan os.Signal, 1)
		signal.Notify(heard, unix.SIGUSR1)
		fmt.Fprintln(os.Stdout, "ready")
		<-heard
		fmt.Fprintln(os.Stdout, "heard")
		select {}
	},
	"fork": func() {
		fmt.Fprintln(os.Stdout, "ready")
		for range 2 {
			go func() {
				runtime.LockOSThread() //nolint:forbidigo // it forks
				for {
					if n := forkAndCount(); n != 0 {
						fmt.Fprintln(os.Stdout, "a child has a descriptor too many:", n)
						os.Exit(1) //nolint:revive // a program
					}
				}
			}()
		}
		io.Copy(io.Discard, os.Stdin)
		fmt.Fprintln(os.Stdout, "done")
	},
	"sleep": func() {
		long := unix.Timespec{Sec: 1000}
		must(unix.Nanosleep(&long, nil))
	},
	"trace": func() {
		pid, err := strconv.Atoi(os.Getenv("PID"))
		must(err)
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
		if errno != 0 {
			panic(errno)
		}
		ready()
	},
	"dispatch": func() {
		const setDispatch, on = 59, 1 // PR_SET_SYSCALL_USER_DISPATCH
		must(unix.Prctl(setDispatch, on, 0, 0, uintptr(unsafe.Pointer(&letPass))))
		ready()
	},
	"leader": func() {
		go readyOnce("Z")
		unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // of this thread alone
	},
	"vfork": func() {
		runtime.GOMAXPROCS(4) // for this thread keeps one
		go readyOnce("D")
		child, _, _ := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VFORK|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if child == 0 {
			unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
			for {
				unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
			}
		}
	},
}

var letPass byte // SYSCALL_DISPATCH_FILTER_ALLOW

// readyOnce says that the process is ready once its first thread has a state.
func readyOnce(letter string) {
	for inject.State(os.Getpid(), os.Getpid()) != letter {
		runtime.Gosched()
	}
	ready()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A tracer with a seccomp filter of its own can't suspend those of others: it traces processes that
// have none, and leaves alone those that have.
func TestFilteredTracer(t *testing.T) {
	plain := sleeper(t)
	filtered := helper(t, "/proc/self/exe", targetCommand)
	t.Setenv(filterTracer, "1")
	tr := tracer(t)
	open(t, tr, plain, 1)
	_, err := tr.Open(filtered, event(1))
	qt.Check(t, qt.ErrorIs(err, inject.ErrUnsupported))
	qt.Check(t, qt.IsNil(tr.Close()))
}

// filterTracer in the environment gives the tracer a filter, which lets everything pass.
const filterTracer = "SNAPCTL_TEST_FILTER_TRACER"
