package inject_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/inject"
)

// reading begins a call in a process that takes until there is a byte at its stdin, and returns where its error arrives.
func reading(t *testing.T, tr *inject.Tracer, pid int) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		address, _ := tr.Scratch(pid)
		results, err := tr.Calls(pid, []inject.Call{{Number: unix.SYS_READ, Args: [6]uint64{0, address, 1}}})
		if err == nil && results[0] != 1 {
			err = fmt.Errorf("read: %d", results[0])
		}
		done <- err
	}()
	await(t, "the process reads", func() bool {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		return err == nil && strings.HasPrefix(string(call), fmt.Sprintf("%d 0x0 ", unix.SYS_READ))
	})
	return done
}

// sleeper is a process that sleeps, and its stdin.
func sleeper(t *testing.T) (pid int, in io.Writer) {
	t.Helper()
	cmd := process(t, "sleep", "1000")
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	pid = start(t, cmd)
	awaitSleep(t, pid)
	return pid, in
}

func state(t *testing.T, pid int) string {
	t.Helper()
	return field(t, pid, "State")[:1]
}

// The daemon ends while calls are made, so that nobody reads the answer.
func TestDaemonEndsDuringCalls(t *testing.T) {
	pid, in := sleeper(t)
	before := mappings(t, pid)
	c := cgroup(t, pid)
	tr := tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop(string(c), []inject.Target{{PID: pid}})))
	done := reading(t, tr, pid)
	qt.Assert(t, qt.IsNil(tr.Die()))
	qt.Check(t, qt.IsNotNil(<-done))
	_, err := in.Write([]byte{1})
	qt.Assert(t, qt.IsNil(err))
	await(t, "it is let go of", func() bool { return field(t, pid, "TracerPid") == "0" })
	s, err := c.State()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(s.Frozen))
	qt.Check(t, qt.Equals(mappings(t, pid), before))
	qt.Assert(t, qt.IsNil(c.Thaw()))
	await(t, "it sleeps on", func() bool { return state(t, pid) == "S" })
}

// A process with many threads is killed during a call, and between two: that is told at once, and
// there is nothing to put back.
func TestKilled(t *testing.T) {
	for _, during := range []bool{true, false} {
		t.Run(fmt.Sprint("during a call ", during), func(t *testing.T) {
			pid := helper(t, "/proc/self/exe", targetCommand)
			c := cgroup(t, pid)
			tr := tracer(t)
			qt.Assert(t, qt.IsNil(tr.Stop(string(c), []inject.Target{{PID: pid}})))
			if during {
				done := reading(t, tr, pid)
				qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGKILL)))
				qt.Check(t, qt.ErrorMatches(<-done, "(?s).*has ended.*"))
			} else {
				qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGKILL)))
			}
			qt.Check(t, qt.IsNil(tr.Close()))
		})
	}
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
		for mode, frozen := range map[string]bool{"frozen": true, "one thread": false} {
			t.Run(name+", "+mode, func(t *testing.T) {
				pid, in := sleeper(t)
				for _, s := range test.before {
					qt.Assert(t, qt.IsNil(unix.Kill(pid, s)))
					await(t, "it is stopped", func() bool { return state(t, pid) == "T" })
				}
				var path string
				if frozen {
					path = string(cgroup(t, pid))
				}
				tr := tracer(t)
				qt.Assert(t, qt.IsNil(tr.Stop(path, []inject.Target{{PID: pid}})))
				for _, s := range test.during { // each during a call, and one more call after it
					done := reading(t, tr, pid)
					qt.Assert(t, qt.IsNil(unix.Kill(pid, s)))
					_, err := in.Write([]byte{1})
					qt.Assert(t, qt.IsNil(err))
					qt.Assert(t, qt.IsNil(<-done))
				}
				results, err := tr.Calls(pid, pidCalls(3))
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.DeepEquals(results, []int64{int64(pid), int64(pid), int64(pid)}))
				qt.Assert(t, qt.IsNil(tr.Close()))
				if frozen {
					qt.Assert(t, qt.IsNil(os.WriteFile(path+"/cgroup.freeze", []byte("0"), 0)))
				}
				await(t, "its state is "+test.want, func() bool { return state(t, pid) == test.want })
			})
		}
	}
}

// What can't be stopped, or can't make calls, is an error that says so, and all is let go of when the
// error is returned.
func TestUnfit(t *testing.T) {
	for name, want := range map[string]string{
		"vfork":    ".*: thread .* waits for a child that it has made with vfork.*",
		"leader":   ".*: can't make system calls in the process: its first thread has ended",
		"dispatch": ".*: can't make system calls in the process: thread .* has its system calls dispatched by itself.*",
		"limit":    ".*: map code: cannot allocate memory",
	} {
		t.Run(name, func(t *testing.T) {
			var pid int
			if name == "limit" { // of memory, which is reached
				pid = helper(t, "sh", "-c", "ulimit -v 1; echo ready; read x")
			} else {
				pid = helper(t, "/proc/self/exe", name)
			}
			other := start(t, process(t, "sleep", "1000"))
			tr := tracer(t)
			err := tr.Stop("", []inject.Target{{PID: other}, {PID: pid}})
			qt.Check(t, qt.ErrorMatches(err, want))
			qt.Check(t, qt.Equals(errors.Is(err, inject.ErrUnsupported), name != "limit"))
			qt.Check(t, qt.Equals(field(t, other, "TracerPid"), "0"))
			qt.Check(t, qt.Equals(field(t, pid, "TracerPid"), "0"))
			qt.Check(t, qt.IsNil(tr.Close()))
		})
	}
}

// A process whose code can't be changed makes calls.
func TestNoNewCode(t *testing.T) {
	pid := helper(t, "/proc/self/exe", "mdwe")
	tr := tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop("", []inject.Target{{PID: pid}})))
	results, err := tr.Calls(pid, pidCalls(3))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(results, 3))
	qt.Check(t, qt.IsNil(tr.Close()))
}

// With a cgroup all of its processes are to be stopped: others would run.
func TestNotAllOfACgroup(t *testing.T) {
	one, other := start(t, process(t, "sleep", "1000")), start(t, process(t, "sleep", "1000"))
	c := cgroup(t, one, other)
	tr := tracer(t)
	err := tr.Stop(string(c), []inject.Target{{PID: one}})
	qt.Check(t, qt.ErrorMatches(err, fmt.Sprintf("stop processes: process %d is in the cgroup, too, and would run", other)))
	s, err := c.State()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(s.Frozen))
	qt.Check(t, qt.IsNil(tr.Close()))
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
	"mdwe": func() {
		const setMDWE, refuseExecGain = 65, 1 // PR_SET_MDWE
		must(unix.Prctl(setMDWE, refuseExecGain, 0, 0, 0))
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

func ready() {
	fmt.Fprintln(os.Stdout, "ready")
	io.Copy(io.Discard, os.Stdin)
}

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
	plain := start(t, process(t, "sleep", "1000"))
	awaitSleep(t, plain)
	filtered := helper(t, "/proc/self/exe", targetCommand)
	t.Setenv(filterTracer, "1")
	tr := tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop("", []inject.Target{{PID: plain}})))
	results, err := tr.Calls(plain, pidCalls(2))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(results, 2))
	qt.Check(t, qt.IsNil(tr.Close()))
	tr = tracer(t)
	qt.Check(t, qt.ErrorIs(tr.Stop("", []inject.Target{{PID: filtered}}), inject.ErrUnsupported))
	qt.Check(t, qt.IsNil(tr.Close()))
}

// filterTracer in the environment gives the tracer a filter, which lets everything pass.
const filterTracer = "SNAPCTL_TEST_FILTER_TRACER"
