package inject_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/snapshot/inject"
)

// What helpers do is done by a process's first thread.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // of the main function

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == inject.Command {
		if os.Getenv(filterTracer) != "" {
			must(filterAll([]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}))
		}
		if err := inject.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
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
	if os.Geteuid() != 0 {
		t.Skip("needs root: traces processes, makes cgroups")
	}
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
	t.Cleanup(func() { tr.Abandon() })
	return tr
}

func pidCalls(n int) []inject.Call { return slices.Repeat([]inject.Call{{Number: unix.SYS_GETPID}}, n) }

// cgroup makes one with a process in it, and freezes it.
func cgroup(t *testing.T, pids ...int) freezer.Cgroup {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || !isV2(root) {
		root = "/sys/fs/cgroup/unified"
	}
	c := freezer.Cgroup(filepath.Join(root, fmt.Sprintf("inject-%d-%d", os.Getpid(), pids[0])))
	qt.Assert(t, qt.IsNil(os.Mkdir(string(c), 0o755)))
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(c.Kill(context.WithoutCancel(t.Context()))))
		qt.Check(t, qt.IsNil(os.Remove(string(c))))
	})
	for _, pid := range pids {
		qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(string(c), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)))
	}
	qt.Assert(t, qt.IsNil(c.Freeze(t.Context())))
	return c
}

func isV2(root string) bool {
	var s unix.Statfs_t
	return unix.Statfs(root, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
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

// awaitSleep waits until a process is sleep(1), and sleeps.
func awaitSleep(t *testing.T, pid int) {
	t.Helper()
	await(t, "sleep sleeps", func() bool {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		number, _, _ := strings.Cut(string(call), " ")
		return err == nil && field(t, pid, "Name") == "sleep" && number == strconv.Itoa(unix.SYS_CLOCK_NANOSLEEP)
	})
}

// mappings are those of a process, but for the kernel's own.
func mappings(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	qt.Assert(t, qt.IsNil(err))
	return string(b)
}

func links(t *testing.T, pid int) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	qt.Assert(t, qt.IsNil(err))
	all := make(map[string]string)
	for _, e := range entries {
		all[e.Name()], err = os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		qt.Assert(t, qt.IsNil(err))
	}
	return all
}

// A process that sleeps makes many calls, more than the table has room for, and sleeps on: nothing
// of ours is left in it.
func TestCalls(t *testing.T) {
	for name, frozen := range map[string]bool{"frozen": true, "one thread": false} {
		t.Run(name, func(t *testing.T) {
			pid := start(t, process(t, "sleep", "1000"))
			awaitSleep(t, pid)
			mapsBefore, linksBefore, maskBefore := mappings(t, pid), links(t, pid), field(t, pid, "SigBlk")
			var c freezer.Cgroup
			if frozen {
				c = cgroup(t, pid)
			}
			tr := tracer(t)
			qt.Assert(t, qt.IsNil(tr.Stop(string(c), []inject.Target{{PID: pid}})))
			results, err := tr.Calls(pid, pidCalls(2500))
			qt.Check(t, qt.IsNil(err))
			qt.Check(t, qt.DeepEquals(results, slices.Repeat([]int64{int64(pid)}, 2500)))
			results, err = tr.Calls(pid, []inject.Call{{Number: unix.SYS_CLOSE, Args: [6]uint64{12345}}})
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.ErrorIs(inject.Errno(results[0]), error(unix.EBADF)))
			qt.Check(t, qt.Not(qt.Equals(mappings(t, pid), mapsBefore)))
			qt.Assert(t, qt.IsNil(tr.Close()))
			qt.Check(t, qt.Equals(mappings(t, pid), mapsBefore))
			qt.Check(t, qt.DeepEquals(links(t, pid), linksBefore))
			qt.Check(t, qt.Equals(field(t, pid, "SigBlk"), maskBefore))
			qt.Check(t, qt.Equals(field(t, pid, "TracerPid"), "0"))
			if frozen {
				s, err := c.State()
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.IsTrue(s.Frozen))
				qt.Assert(t, qt.IsNil(c.Thaw()))
			}
			await(t, "it sleeps on", func() bool { return strings.HasPrefix(field(t, pid, "State"), "S") })
		})
	}
}

// All numbers of a process are closed and come back: with the same files, and close-on-exec as it
// was, also where the files of our own message would have got in the way.
func TestInstall(t *testing.T) {
	const count = 600
	cmd := process(t, "sleep", "1000")
	for i := range count {
		f, err := os.Create(filepath.Join(t.TempDir(), strconv.Itoa(i)))
		qt.Assert(t, qt.IsNil(err))
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	pid := start(t, cmd)
	awaitSleep(t, pid)
	before := links(t, pid)
	c := cgroup(t, pid)

	var files []*os.File
	var slots []inject.Slot
	tr := tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop(string(c), []inject.Target{{PID: pid, Above: 3 + count}})))
	var calls []inject.Call
	for i := range count {
		if i%7 == 3 { // these stay
			continue
		}
		slots = append(slots, inject.Slot{Number: 3 + i, CloseOnExec: i%2 == 0})
		files = append(files, cmd.ExtraFiles[i])
		calls = append(calls, inject.Call{Number: unix.SYS_CLOSE, Args: [6]uint64{uint64(3 + i)}})
	}
	results, err := tr.Calls(pid, calls)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(results, make([]int64, len(calls))))
	qt.Check(t, qt.IsNil(tr.Install(pid, files, slots)))
	qt.Assert(t, qt.IsNil(tr.Close()))
	qt.Check(t, qt.DeepEquals(links(t, pid), before))
	for _, s := range slots {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, s.Number))
		qt.Assert(t, qt.IsNil(err))
		_, flags, _ := strings.Cut(string(b), "flags:\t")
		flags, _, _ = strings.Cut(flags, "\n")
		value, err := strconv.ParseUint(flags, 8, 32)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(value&unix.O_CLOEXEC != 0, s.CloseOnExec), qt.Commentf("%d", s.Number))
	}
	qt.Check(t, qt.ErrorMatches(tr.Install(pid, files[:1], slots[:1]), ".*not stopped"))
}

// A process's limit of open files is an error that says so, and not a descriptor that is lost.
func TestInstallAtTheLimit(t *testing.T) {
	pid := start(t, process(t, "sh", "-c", "ulimit -n 8; exec sleep 1000"))
	awaitSleep(t, pid)
	tr := tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop("", []inject.Target{{PID: pid}})))
	var files []*os.File
	var slots []inject.Slot
	for i := range 5 { // 3 to 7, of which our sockets have two
		files, slots = append(files, os.Stdin), append(slots, inject.Slot{Number: 3 + i})
	}
	qt.Check(t, qt.ErrorMatches(tr.Install(pid, files, slots), ".*3 of 5 descriptors arrived.*limit of open files.*"))
	qt.Check(t, qt.IsNil(tr.Close()))
	tr = tracer(t)
	qt.Check(t, qt.ErrorMatches(tr.Stop("", []inject.Target{{PID: pid, Above: 8}}), ".*from 8 on: invalid argument"))
	qt.Check(t, qt.IsNil(tr.Close()))
	qt.Check(t, qt.Equals(field(t, pid, "TracerPid"), "0"))
}

// What a process is told of by signals, and by those that can't be blocked, happens afterwards.
func TestSignals(t *testing.T) {
	cmd := process(t, "sh", "-c", "trap 'echo heard' USR1; echo ready; while :; do sleep 0.01; done")
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	pid := start(t, cmd)
	lines := bufio.NewScanner(out)
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	tr := tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop("", []inject.Target{{PID: pid}})))
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGUSR1)))
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGSTOP)))
	results, err := tr.Calls(pid, pidCalls(1000))
	qt.Check(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(results, 1000))
	qt.Assert(t, qt.IsNil(tr.Close()))
	await(t, "it is stopped by SIGSTOP", func() bool { return strings.HasPrefix(field(t, pid, "State"), "T") })
	qt.Assert(t, qt.IsNil(unix.Kill(pid, unix.SIGCONT)))
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	qt.Check(t, qt.Equals(lines.Text(), "heard"))
}

// The daemon ends in the middle: what is stopped is let go of, frozen as it was before.
func TestDaemonEnds(t *testing.T) {
	pid := start(t, process(t, "sleep", "1000"))
	awaitSleep(t, pid)
	before := mappings(t, pid)
	c := cgroup(t, pid)
	tr := tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop(string(c), []inject.Target{{PID: pid}})))
	_, err := tr.Calls(pid, pidCalls(10))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(tr.Abandon()))
	await(t, "it is let go of", func() bool { return field(t, pid, "TracerPid") == "0" })
	s, err := c.State()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(s.Frozen))
	qt.Check(t, qt.Equals(mappings(t, pid), before))
}

// What can't be stopped is an error, and nothing stays stopped.
func TestRefused(t *testing.T) {
	pid := start(t, process(t, "sleep", "1000"))
	tr := tracer(t)
	err := tr.Stop("", []inject.Target{{PID: pid}, {PID: os.Getpid() + 1<<22}})
	qt.Check(t, qt.ErrorMatches(err, "stop processes: process .*: list threads: .*"))
	qt.Check(t, qt.Equals(field(t, pid, "TracerPid"), "0"))
	tr = tracer(t)
	qt.Assert(t, qt.IsNil(tr.Stop("", []inject.Target{{PID: pid}})))
	other := tracer(t)
	qt.Check(t, qt.ErrorIs(other.Stop("", []inject.Target{{PID: pid}}), inject.ErrUnsupported)) // it has a tracer
	qt.Check(t, qt.IsNil(other.Close()))
	_, err = tr.Calls(1, pidCalls(1))
	qt.Check(t, qt.ErrorMatches(err, "make system calls in process 1: it is not stopped"))
	qt.Check(t, qt.IsNil(tr.Close()))
}
