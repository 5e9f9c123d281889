package sandbox_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
)

// pipes makes FIFOs for the standard streams. The test has the other ends: what it writes
// to in the program reads, and out and err have what the program writes.
func pipes(t *testing.T) (s sandbox.Stdio, in *os.File, out, stderr *bufio.Reader) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string, flags int) *os.File {
		path := filepath.Join(dir, name)
		qt.Assert(t, qt.IsNil(unix.Mkfifo(path, 0o600)))
		f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0) // for Go to wait, with a deadline
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { _ = f.Close() })
		qt.Assert(t, qt.IsNil(f.SetReadDeadline(time.Now().Add(time.Minute))))
		return f
	}
	// Of its input it has both ends until the program has it.
	in = open("in", os.O_RDWR)
	out, stderr = bufio.NewReader(open("out", os.O_RDONLY)), bufio.NewReader(open("err", os.O_RDONLY))
	return sandbox.Stdio{Stdin: filepath.Join(dir, "in"), Stdout: filepath.Join(dir, "out"), Stderr: filepath.Join(dir, "err")}, in, out, stderr
}

func say(t *testing.T, in *os.File, line string) {
	t.Helper()
	_, err := in.WriteString(line + "\n")
	qt.Assert(t, qt.IsNil(err))
}

func hear(t *testing.T, from *bufio.Reader, want string) {
	t.Helper()
	got, err := from.ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(strings.TrimRight(got, "\r\n"), want))
}

// A given root directory is used as it is, is the same one after a restore, and stays.
func TestGivenRoot(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	root := makeRoot(t)
	streams, in, out, _ := pipes(t)
	r := start(t, sandbox.Config{Rootfs: root, Stdio: streams})
	say(t, in, "before=")
	hear(t, out, "1 before=")
	r.restore(r.save())
	say(t, in, "after=")
	hear(t, out, "2 after=")
	_, err := os.Stat(r.box.Upper())
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist), qt.Commentf("nothing is stacked"))

	qt.Check(t, qt.IsNil(r.group().Kill(t.Context())))
	qt.Check(t, qt.IsNil(r.box.UnmountRoot()))
	for name, want := range map[string]string{"before": "1", "after": "2"} {
		got, err := os.ReadFile(filepath.Join(root, name))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(got), want))
	}
}

// A given network namespace is the program's, also after a restore, and stays.
func TestGivenNetwork(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	path := filepath.Join(t.TempDir(), "net")
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	qt.Assert(t, qt.IsNil(ns.Bind(path)))
	defer func() { qt.Check(t, qt.IsNil(netns.Unbind(path))) }()
	t.Run("app", func(t *testing.T) {
		streams, in, out, _ := pipes(t)
		r := start(t, sandbox.Config{NetNS: path, Stdio: streams})
		say(t, in, "net")
		hear(t, out, fmt.Sprintf("1 net:[%d]", ns.Inode()))
		r.restore(r.save())
		say(t, in, "net")
		hear(t, out, fmt.Sprintf("2 net:[%d]", ns.Inode()))
		_, err := os.Stat(filepath.Join(r.box.RunDir, "ns", "net"))
		qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	})
	again, err := netns.Open(path)
	qt.Assert(t, qt.IsNil(err), qt.Commentf("the sandbox is gone, and its network namespace is not"))
	qt.Check(t, qt.Equals(again.Inode(), ns.Inode()))
	qt.Check(t, qt.IsNil(again.Close()))
}

func TestGivenNetworkIsMissing(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	cgroups, err := cgroup.Open(fmt.Sprintf("/snapctl-test-sandbox-missing-%d", os.Getpid()), filepath.Join(dir, "run"))
	qt.Assert(t, qt.IsNil(err))
	box := sandbox.New(sandbox.Config{
		Name: "app", StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run", "app"), Cgroups: cgroups, Spec: &specs.Spec{},
		NetNS: filepath.Join(dir, "none"),
	})
	_, err = box.Enclose(t.Context())
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	qt.Check(t, qt.IsNil(box.Remove()))
	qt.Check(t, qt.IsNil(cgroups.Delete()))
}

// Whoever is at the other ends of the standard streams does not see that the program was
// saved: no end of file, and what was written meanwhile is read once.
func TestGivenPipes(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	streams, in, out, stderr := pipes(t)
	r := start(t, sandbox.Config{Stdio: streams})
	hear(t, stderr, "ready")
	say(t, in, "one")
	hear(t, out, "1 one")
	before := flagsOf(t, r.proc.PID)
	from := r.save()
	say(t, in, "two")
	r.restore(from)
	hear(t, out, "2 two")
	qt.Check(t, qt.DeepEquals(flagsOf(t, r.proc.PID), before))

	// The end of its input comes when the last writer closes it, and not before.
	qt.Assert(t, qt.IsNil(in.Close()))
	hear(t, out, "end")
	_, err := io.Copy(io.Discard, stderr) // a program that was built to measure coverage says that it can't
	qt.Check(t, qt.IsNil(err), qt.Commentf("it has ended"))
}

// flagsOf reads the flags of a process's standard streams.
func flagsOf(t *testing.T, pid int) (flags [3]string) {
	t.Helper()
	for fd := range flags {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
		qt.Assert(t, qt.IsNil(err))
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, "flags:"); ok {
				flags[fd] = strings.TrimSpace(value)
			}
		}
	}
	return flags
}

// Standard output and error that nobody has chosen are the log, also of who has chosen its
// input.
func TestInputAlone(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	streams, in, _, _ := pipes(t)
	r := start(t, sandbox.Config{Stdio: sandbox.Stdio{Stdin: streams.Stdin}})
	say(t, in, "one")
	awaitLog(t, r, "ready\n1 one\n")
	r.restore(r.save())
	say(t, in, "two")
	awaitLog(t, r, "ready\n1 one\n2 two\n")
}

func awaitLog(t *testing.T, r *rig, want string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		got, err := os.ReadFile(r.box.LogFile())
		qt.Assert(t, qt.IsNil(err))
		if bytes.Equal(got, []byte(want)) {
			return
		}
		qt.Assert(t, qt.IsTrue(time.Now().Before(end)), qt.Commentf("the log has %q", got))
	}
}

// A given terminal is the program's controlling one, also after a restore. Whoever has the
// master does not see a hangup while the program sleeps, and its size is kept.
func TestGivenTerminal(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CRIU)
	master, path := newTerminal(t)
	r := start(t, sandbox.Config{Stdio: sandbox.Stdio{Terminal: path}})
	out := bufio.NewReader(master)
	hear(t, out, "ready")
	say(t, master, "one")
	hear(t, out, "one") // the terminal's echo
	hear(t, out, "1 one")
	say(t, master, "tty")
	hear(t, out, "tty")
	hear(t, out, "by /dev/tty")
	hear(t, out, "2 tty")
	before := controlOf(t, r.proc.PID)
	qt.Check(t, qt.Not(qt.Equals(before[0], "0")))

	from := r.save()
	qt.Assert(t, qt.IsNil(unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99})))
	ready, err := unix.Poll([]unix.PollFd{{Fd: int32(master.Fd()), Events: unix.POLLIN}}, 0)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(ready, 0), qt.Commentf("there is neither output nor a hangup"))
	say(t, master, "tty")

	r.restore(from)
	hear(t, out, "tty")
	hear(t, out, "by /dev/tty")
	hear(t, out, "3 tty")
	qt.Check(t, qt.DeepEquals(controlOf(t, r.proc.PID), before))
	size, err := unix.IoctlGetWinsize(int(master.Fd()), unix.TIOCGWINSZ)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(*size, unix.Winsize{Row: 33, Col: 99}))

	// Ctrl-C reaches it by its session.
	_, err = master.Write([]byte{3})
	qt.Assert(t, qt.IsNil(err))
	status, err := r.proc.Wait()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(status.Code, 2), qt.Commentf("%v: Go ends with this code after SIGINT", status))
}

// newTerminal makes a pseudo-terminal.
func newTerminal(t *testing.T) (master *os.File, path string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { _ = master.Close() })
	qt.Assert(t, qt.IsNil(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	qt.Assert(t, qt.IsNil(err))
	return master, fmt.Sprintf("/dev/pts/%d", number)
}

// controlOf reads a process's controlling terminal and whether the process is in its
// foreground, proc_pid_stat(5).
func controlOf(t *testing.T, pid int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	qt.Assert(t, qt.IsNil(err))
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	return []string{fields[4], fmt.Sprint(fields[2] == fields[5])}
}
