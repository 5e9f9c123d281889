package veil_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/checkpoint/veil"
	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

func TestMain(m *testing.M) { os.Exit(sockets.Main(m)) }

// app has connections in all ways, and says which of its descriptors have to be hidden.
const app = `
import fcntl, os, select, socket, sys
l = socket.create_server(("127.0.0.1", 0), backlog=50)
near = [socket.create_connection(l.getsockname()) for _ in range(20)]
far = [l.accept()[0] for _ in near]
dup = os.dup2(near[0].fileno(), 200)
hide = [s.fileno() for s in near + far] + [dup]

plain = select.epoll()  # of sockets, one of them by two numbers, and of a pipe: it goes with them
pipe = os.pipe()
for fd in [near[0].fileno(), near[1].fileno(), dup, pipe[0], l.fileno()]: plain.register(fd, select.EPOLLIN)
hide.append(plain.fileno())

other = select.epoll()  # of nothing that is hidden: it stays
other.register(pipe[0], select.EPOLLIN)

outer, inner = select.epoll(), select.epoll()  # watches one that watches a connection: all stay
inner.register(near[2], select.EPOLLIN)
outer.register(inner.fileno(), select.EPOLLIN)
hide.remove(near[2].fileno())

stale = select.epoll()  # watches by a number that is closed: all stay that it watches
gone = os.dup2(near[3].fileno(), 201)
stale.register(gone, select.EPOLLIN)
stale.register(near[4], select.EPOLLIN)
os.close(gone)
for s in near[3:5]: hide.remove(s.fileno())

taken = select.epoll()  # watches by a number at which there is another connection now
number = os.dup2(near[5].fileno(), 202)
taken.register(number, select.EPOLLIN)
os.dup2(near[6].fileno(), 202)
hide.append(number)
hide.remove(near[5].fileno())

fcntl.fcntl(near[7], fcntl.F_SETOWN, os.getpid())
hide.remove(near[7].fileno())

print(*sorted(hide), flush=True)
sys.stdin.read()
`

// start starts a command that ends with the test. It returns what it says.
func start(t *testing.T, cmd *exec.Cmd, how func(*exec.Cmd) error) (*bufio.Reader, io.WriteCloser) {
	t.Helper()
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	cmd.Stderr = os.Stderr
	qt.Assert(t, qt.IsNil(how(cmd)))
	t.Cleanup(func() {
		_ = in.Close() // it may be
		qt.Check(t, qt.IsNil(cmd.Wait()))
	})
	return bufio.NewReader(out), in
}

func numbers(t *testing.T, line string) (list []int) {
	t.Helper()
	for word := range strings.FieldsSeq(line) {
		n, err := strconv.Atoi(word)
		qt.Assert(t, qt.IsNil(err))
		list = append(list, n)
	}
	return list
}

// memory makes a folder on a tmpfs, as that is in which a daemon runs.
func memory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m")))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, unix.MNT_DETACH))) })
	return dir
}

// What is hidden from a process that is apart is not in the list that it gets, and what is not hidden it
// can open. Nobody else sees a difference, and none is left when it has ended.
func TestHide(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Program("python3"))
	w := sockets.New(t)
	ctx := context.WithoutCancel(t.Context())
	program := exec.CommandContext(ctx, "python3", "-c", app)
	out, _ := start(t, program, func(cmd *exec.Cmd) (err error) {
		w.Do(func() { err = cmd.Start() })
		return err
	})
	line, err := out.ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	hide := numbers(t, line)
	pid := program.Process.Pid

	set, _, err := collect.Connections(t.Context(), []int{pid})
	qt.Assert(t, qt.IsNil(err))
	v, err := veil.Find(t.Context(), []int{pid}, set)
	qt.Assert(t, qt.IsNil(err))

	dir := filepath.Join(memory(t), "veil")
	seer := exec.CommandContext(ctx, "sh", "-c", `read x; ls -U $1; stat -L -c %i $1/1`, "sh", fmt.Sprintf("/proc/%d/fd", pid))
	said, tell := start(t, seer, func(cmd *exec.Cmd) error {
		return apart.OnThread(func() error {
			if err := apart.Move(); err != nil {
				return err
			}
			return cmd.Start()
		})
	})
	qt.Assert(t, qt.IsNil(v.Hide(seer.Process.Pid, dir)))
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	qt.Assert(t, qt.IsNil(err))
	var shown []int
	for _, e := range all {
		n, err := strconv.Atoi(e.Name())
		qt.Assert(t, qt.IsNil(err))
		if !slices.Contains(hide, n) {
			shown = append(shown, n)
		}
	}
	slices.Sort(shown)
	qt.Assert(t, qt.Equals(len(shown), len(all)-len(hide))) // we see all
	_, err = tell.Write([]byte("\n"))
	qt.Assert(t, qt.IsNil(err))
	var seen []string
	for range shown {
		line, err := said.ReadString('\n')
		qt.Assert(t, qt.IsNil(err))
		seen = append(seen, line)
	}
	qt.Check(t, qt.DeepEquals(numbers(t, strings.Join(seen, " ")), shown)) // in their order, which CRIU relies on
	inode, err := said.ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Stat(fmt.Sprintf("/proc/%d/fd/1", pid), &st)))
	qt.Check(t, qt.Equals(strings.TrimSpace(inode), strconv.FormatUint(st.Ino, 10)))
}

// If a process is not there, nothing is hidden and the error says so.
func TestHideFromNobody(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := sockets.New(t)
	a, clients := w.RunConnected(3)
	defer sockets.Close(t, clients...)
	set, _, err := collect.Connections(t.Context(), []int{a.PID})
	qt.Assert(t, qt.IsNil(err))
	v, err := veil.Find(t.Context(), []int{a.PID}, set)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(v.Len(), 3))
	qt.Check(t, qt.ErrorIs(v.Hide(1<<30, filepath.Join(memory(t), "veil")), unix.ENOENT))
	var none *veil.Veil
	qt.Check(t, qt.Equals(none.Len(), 0))
	qt.Check(t, qt.IsNil(none.Complete("/nowhere")))
}

// An epoll instance that is on its way through a unix socket may watch connections, which CRIU then has
// to see.
func TestNothingIsHiddenOnItsWay(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Program("python3"))
	w := sockets.New(t)
	program := exec.CommandContext(context.WithoutCancel(t.Context()), "python3", "-c", `
import array, select, socket, sys
l = socket.create_server(("127.0.0.1", 0), backlog=50)
near = [socket.create_connection(l.getsockname()) for _ in range(20)]
far = [l.accept()[0] for _ in near]
watch = select.epoll()
watch.register(near[0], select.EPOLLIN)
one, two = socket.socketpair()
for line in sys.stdin:
    if line.strip() == "send": one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [watch.fileno()]))])
    if line.strip() == "take": two.recvmsg(1, 64)
    print("done", flush=True)
`)
	out, in := start(t, program, func(cmd *exec.Cmd) (err error) {
		w.Do(func() { err = cmd.Start() })
		return err
	})
	find := func(step string) *veil.Veil {
		_, err := fmt.Fprintln(in, step)
		qt.Assert(t, qt.IsNil(err))
		_, err = out.ReadString('\n')
		qt.Assert(t, qt.IsNil(err))
		set, _, err := collect.Connections(t.Context(), []int{program.Process.Pid})
		qt.Assert(t, qt.IsNil(err))
		defer set.Close()
		v, err := veil.Find(t.Context(), []int{program.Process.Pid}, set)
		qt.Assert(t, qt.IsNil(err))
		return v
	}
	v := find("send")
	qt.Check(t, qt.Equals(v.Len(), 0))
	qt.Check(t, qt.ErrorMatches(v.Why(), "descriptors are on their way through a unix socket, .*: descriptor [0-9]+ of process [0-9]+"))
	v = find("take")
	qt.Check(t, qt.Equals(v.Len(), 40))
	qt.Check(t, qt.IsNil(v.Why()))
}
