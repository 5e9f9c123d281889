package inject_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/inject"
	"github.com/snapctl/snapctl/testenv"
)

// What helpers do is done by a process's first thread.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // of the main function

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == inject.Command {
		if os.Getenv(filterTracer) != "" {
			must(filterAll([]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}))
		}
		must(inject.Serve(os.Stdin, os.Stdout))
		return
	}
	if len(os.Args) == 2 && helpers[os.Args[1]] != nil {
		helpers[os.Args[1]]()
		return
	}
	os.Exit(m.Run())
}

// process starts a program that is to be stopped.
func process(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	return cmd
}

func start(t *testing.T, cmd *exec.Cmd) (pid int) {
	t.Helper()
	testenv.Need(t, testenv.Root)
	qt.Assert(t, qt.IsNil(cmd.Start()))
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

func tracer(t *testing.T) *inject.Tracer {
	t.Helper()
	tr, err := inject.Start(t.Context(), "/proc/self/exe")
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { tr.Close() })
	return tr
}

// event makes an eventfd(2) with a number in it.
func event(number uint64) inject.Call {
	return inject.Call{Number: unix.SYS_EVENTFD2, Args: [6]uint64{number, unix.EFD_CLOEXEC}}
}

// open opens an event in a process and checks that it is that.
func open(t *testing.T, tr *inject.Tracer, pid int, number uint64) {
	t.Helper()
	f, err := tr.Open(pid, event(number))
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	qt.Assert(t, qt.IsNil(err))
	_, count, _ := strings.Cut(string(info), "eventfd-count:")
	count, _, _ = strings.Cut(count, "\n")
	qt.Check(t, qt.Equals(strings.TrimSpace(count), strconv.FormatUint(number, 16)))
}

func field(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	qt.Assert(t, qt.IsNil(err))
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("process %d has no %s", pid, name)
	return ""
}

func state(t *testing.T, pid int) string {
	t.Helper()
	return field(t, pid, "State")[:1]
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.Tick(time.Millisecond)
	for deadline := time.Now().Add(30 * time.Second); !so(); <-tick {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// inCall tells whether a process's first thread is in a system call.
func inCall(pid, number int) bool {
	call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	name, _, _ := strings.Cut(string(call), " ")
	return err == nil && name == strconv.Itoa(number)
}

// awaitSleep waits until a process is sleep(1), and sleeps.
func awaitSleep(t *testing.T, pid int) {
	t.Helper()
	await(t, "sleep sleeps", func() bool { return field(t, pid, "Name") == "sleep" && inCall(pid, unix.SYS_CLOCK_NANOSLEEP) })
}

// sleeper is a process that sleeps.
func sleeper(t *testing.T) (pid int) {
	t.Helper()
	pid = start(t, process(t, "sleep", "1000"))
	awaitSleep(t, pid)
	return pid
}

// inside is what might be left in a process: its mappings, signal mask and descriptors.
func inside(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	qt.Assert(t, qt.IsNil(err))
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	qt.Assert(t, qt.IsNil(err))
	all := string(b) + field(t, pid, "SigBlk") + "\n"
	for _, e := range entries {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		qt.Assert(t, qt.IsNil(err))
		all += e.Name() + " " + link + "\n"
	}
	return all
}

// A process that sleeps opens descriptors, and sleeps on: nothing of ours is left in it. A call that
// fails is told by its number, and does not end the tracer.
func TestOpen(t *testing.T) {
	pid := sleeper(t)
	before := inside(t, pid)
	tr := tracer(t)
	for i := range uint64(20) {
		open(t, tr, pid, i)
		_, err := tr.Open(pid, inject.Call{Number: unix.SYS_DUP, Args: [6]uint64{12345}})
		qt.Check(t, qt.ErrorIs(err, error(unix.EBADF)))
		qt.Check(t, qt.Equals(inside(t, pid), before))
		qt.Check(t, qt.Equals(field(t, pid, "TracerPid"), "0"))
	}
	qt.Check(t, qt.IsFalse(tr.Ended()))
	qt.Check(t, qt.IsNil(tr.Close()))
	qt.Check(t, qt.IsNil(tr.Close()))
	await(t, "it sleeps on", func() bool { return state(t, pid) == "S" })
	_, err := tr.Open(pid, event(1))
	qt.Check(t, qt.ErrorMatches(err, ".*the tracer has ended"))
}

// What a process is told of by signals, and by those that can't be blocked, happens afterwards.
func TestSignals(t *testing.T) {
	cmd := process(t, "/proc/self/exe", "signals")
	server := listen(t)
	cmd.Stdin = server
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	pid := start(t, cmd)
	lines := bufio.NewScanner(out)
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	tr := tracer(t)
	done := accepting(t, tr, pid)
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGUSR1)))
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGSTOP)))
	dial(t, server)
	qt.Assert(t, qt.IsNil(<-done))
	await(t, "it is stopped by SIGSTOP", func() bool { return state(t, pid) == "T" })
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGCONT)))
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	qt.Check(t, qt.Equals(lines.Text(), "heard"))
}

// What can't be stopped is an error, and nothing stays stopped.
func TestRefused(t *testing.T) {
	pid := sleeper(t)
	tr := tracer(t)
	_, err := tr.Open(os.Getpid()+1<<22, event(1))
	qt.Check(t, qt.ErrorMatches(err, "make a system call in process .*: read mappings: .*"))
	qt.Check(t, qt.IsTrue(tr.Ended()))
	qt.Check(t, qt.IsNil(tr.Close()))

	// It has a tracer.
	other := start(t, func() *exec.Cmd {
		cmd := process(t, "/proc/self/exe", "trace")
		cmd.Env = append(os.Environ(), fmt.Sprint("PID=", pid))
		in, err := cmd.StdinPipe()
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { in.Close() })
		return cmd
	}())
	await(t, "it is traced", func() bool { return field(t, pid, "TracerPid") == strconv.Itoa(other) })
	tr = tracer(t)
	_, err = tr.Open(pid, event(1))
	qt.Check(t, qt.ErrorIs(err, inject.ErrUnsupported))
	qt.Check(t, qt.IsNil(tr.Close()))
}

// Nothing of a tracer is left in this process, whether it could stop processes or not. The process is
// in a user namespace.
func TestNothingLeftOpen(t *testing.T) {
	pid := start(t, process(t, "unshare", "--user", "--map-root-user", "sleep", "1000"))
	awaitSleep(t, pid)
	round := func() {
		t.Helper()
		tr := tracer(t)
		open(t, tr, pid, 7)
		_, err := tr.Open(os.Getpid()+1<<22, event(1))
		qt.Check(t, qt.IsNotNil(err))
		qt.Check(t, qt.IsNil(tr.Close()))
	}
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		qt.Assert(t, qt.IsNil(err))
		return len(entries)
	}
	round() // what the runtime opens once is open then
	before := count()
	for range 5 {
		round()
	}
	qt.Check(t, qt.Equals(count(), before))
}

// listen makes a socket that a process can inherit as its stdin.
func listen(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	f := os.NewFile(uintptr(fd), "listener")
	t.Cleanup(func() { f.Close() })
	qt.Assert(t, qt.IsNil(unix.Bind(fd, &unix.SockaddrUnix{}))) // a name of the kernel's choice
	qt.Assert(t, qt.IsNil(unix.Listen(fd, 10)))
	return f
}

// dial connects to a listener.
func dial(t *testing.T, server *os.File) {
	t.Helper()
	at, err := unix.Getsockname(int(server.Fd()))
	qt.Assert(t, qt.IsNil(err))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { unix.Close(fd) })
	qt.Assert(t, qt.IsNil(unix.Connect(fd, at)))
}

// accepting begins a call in a process, whose stdin listens, that takes until somebody connects. It
// returns where its error arrives.
func accepting(t *testing.T, tr *inject.Tracer, pid int) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		f, err := tr.Open(pid, inject.Call{Number: unix.SYS_ACCEPT4, Args: [6]uint64{0, 0, 0, unix.SOCK_CLOEXEC}})
		if err == nil {
			err = f.Close()
		}
		done <- err
	}()
	await(t, "the process accepts", func() bool { return inCall(pid, unix.SYS_ACCEPT4) })
	return done
}

func ready() {
	fmt.Fprintln(os.Stdout, "ready")
	io.Copy(io.Discard, os.Stdin)
}
