package holder_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/holder"
)

func TestMemory(t *testing.T) {
	testStore(t, func(t *testing.T) holder.Store {
		t.Helper()
		m := holder.NewMemory()
		t.Cleanup(func() { qt.Check(t, qt.IsNil(m.Close())) })
		return m
	})
}

func TestClient(t *testing.T) {
	testStore(t, func(t *testing.T) holder.Store {
		t.Helper()
		c, _ := serve(t)
		return c
	})
}

// serve runs a holder in this process, until the test ends.
func serve(t *testing.T) (*holder.Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "holder.sock")
	l, err := holder.Listen(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- holder.Serve(ctx, l, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		qt.Check(t, qt.IsNil(<-done))
	})
	c, err := holder.Dial(t.Context(), path)
	qt.Assert(t, qt.IsNil(err))
	return c, path
}

// spawn runs a holder process, until the test ends, and returns its pid.
func spawn(tb testing.TB) (*holder.Client, string, int) {
	tb.Helper()
	dir := tb.TempDir()
	path := filepath.Join(dir, "holder.sock")
	exe, err := os.Executable()
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.IsNil(holder.Spawn(tb.Context(), exe, path, filepath.Join(dir, "log"))))
	pid := listenerPID(tb, path)
	tb.Cleanup(func() {
		p, err := os.FindProcess(pid)
		qt.Assert(tb, qt.IsNil(err))
		qt.Check(tb, qt.IsNil(p.Kill()))
		_, err = p.Wait()
		qt.Check(tb, qt.IsNil(err))
	})
	c, err := holder.Dial(tb.Context(), path)
	qt.Assert(tb, qt.IsNil(err))
	return c, path, pid
}

// listenerPID asks the kernel who listens at path.
func listenerPID(tb testing.TB, path string) int {
	tb.Helper()
	conn, err := net.Dial("unixpacket", path)
	qt.Assert(tb, qt.IsNil(err))
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	qt.Assert(tb, qt.IsNil(err))
	var pid int
	qt.Assert(tb, qt.IsNil(raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		qt.Check(tb, qt.IsNil(err))
		pid = int(cred.Pid)
	})))
	return pid
}

// openFDs counts the descriptors of a process that lead to files of one kind.
func openFDs(t *testing.T, pid int, link string) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	list, err := os.ReadDir(dir)
	qt.Assert(t, qt.IsNil(err))
	n := 0
	for _, fd := range list {
		to, err := os.Readlink(dir + fd.Name())
		if err == nil && strings.HasPrefix(to, link) {
			n++
		}
	}
	return n
}

// settle waits until a process has want descriptors of a kind: the holder
// notices a client's end a little later.
func settle(t *testing.T, pid int, link string, want func() int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		w, have := want(), openFDs(t, pid, link)
		if w == have {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("the holder has %d descriptors of %s, want %d", have, link, w)
		case <-tick.C:
		}
	}
}

func TestSpawn(t *testing.T) {
	c, path, pid := spawn(t)

	t.Run("again does nothing", func(t *testing.T) {
		qt.Assert(t, qt.IsNil(holder.Spawn(t.Context(), "/nonexistent", path, os.DevNull)))
		qt.Assert(t, qt.Equals(listenerPID(t, path), pid))
	})
	t.Run("detached", func(t *testing.T) {
		sid, err := unix.Getsid(pid)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(sid, pid))
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(cwd, "/"))
	})
	t.Run("socket is private", func(t *testing.T) {
		st, err := os.Stat(path)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(st.Mode().Perm(), os.FileMode(0o600)))
		_, err = holder.Listen(t.Context(), path)
		qt.Assert(t, qt.ErrorIs(err, holder.ErrRunning))
	})
	t.Run("keeps connections", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		qt.Assert(t, qt.IsNil(err))
		client, err := net.Dial("tcp", l.Addr().String())
		qt.Assert(t, qt.IsNil(err))
		defer client.Close()
		tl, ok := l.(*net.TCPListener)
		qt.Assert(t, qt.IsTrue(ok))
		f, err := tl.File()
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(c.Put(t.Context(), "web", []holder.Item{{Key: "l", File: f}})))
		qt.Assert(t, qt.IsNil(f.Close()))
		qt.Assert(t, qt.IsNil(l.Close()))
		_, err = client.Write([]byte("hello")) // nobody but the holder has it
		qt.Assert(t, qt.IsNil(err))
		items, err := c.Get(t.Context(), "web")
		qt.Assert(t, qt.IsNil(err))
		again, err := net.FileListener(items[0].File)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(holder.CloseAll(items)))
		server, err := again.Accept()
		qt.Assert(t, qt.IsNil(err))
		text := make([]byte, 5)
		_, err = io.ReadFull(server, text)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(string(text), "hello"))
		qt.Assert(t, qt.IsNil(server.Close()))
		qt.Assert(t, qt.IsNil(again.Close()))
		qt.Assert(t, qt.IsNil(c.Drop(t.Context(), "web")))
	})
	t.Run("says why it failed", func(t *testing.T) {
		exe, err := os.Executable()
		qt.Assert(t, qt.IsNil(err))
		err = holder.Spawn(t.Context(), exe, "/nonexistent/holder.sock", filepath.Join(t.TempDir(), "log"))
		qt.Assert(t, qt.ErrorMatches(err, `start holder: exit status 1: listen at /nonexistent/holder.sock: .*`))
	})
}

// TestRestart checks that a socket file that a dead holder left is replaced.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "holder.sock")
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	for range 2 {
		qt.Assert(t, qt.IsNil(holder.Spawn(t.Context(), exe, path, filepath.Join(dir, "log"))))
		p, err := os.FindProcess(listenerPID(t, path))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(p.Kill()))
		_, err = p.Wait()
		qt.Assert(t, qt.IsNil(err))
		_, err = holder.Dial(t.Context(), path)
		qt.Assert(t, qt.ErrorIs(err, unix.ECONNREFUSED))
	}
}

func TestThousands(t *testing.T) {
	c, _, pid := spawn(t)
	const n = 5000
	items := make([]holder.Item, n)
	for i := range items {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		qt.Assert(t, qt.IsNil(err))
		items[i] = holder.Item{Key: strconv.Itoa(i), File: os.NewFile(uintptr(fd), "s"), Meta: []byte(`{"some":"meta"}`)}
	}
	defer holder.CloseAll(items)
	const listener = 1
	start := time.Now()
	qt.Assert(t, qt.IsNil(c.Put(t.Context(), "big", items)))
	put := time.Since(start)
	settle(t, pid, "socket:", func() int { return listener + n })
	start = time.Now()
	got, err := c.Get(t.Context(), "big")
	qt.Assert(t, qt.IsNil(err))
	t.Logf("%d descriptors: put %v, get %v, resident %d KiB", n, put, time.Since(start), resident(t, pid))
	qt.Assert(t, qt.Equals(len(got), n))
	qt.Assert(t, qt.IsNil(holder.CloseAll(got)))

	t.Run("no room", func(t *testing.T) {
		var before unix.Rlimit
		qt.Assert(t, qt.IsNil(unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before)))
		var many []holder.Item
		for i := range int(before.Cur) {
			many = append(many, holder.Item{Key: strconv.Itoa(i), File: items[0].File})
		}
		err := c.Put(t.Context(), "big", many)
		qt.Assert(t, qt.ErrorIs(err, holder.ErrFull))
		qt.Assert(t, qt.ErrorMatches(err, `.*do not fit beside 5000, RLIMIT_NOFILE leaves room for \d+`))
		// It changes below the running holder: descriptors are cut off.
		low := unix.Rlimit{Cur: uint64(n + 20), Max: before.Max}
		qt.Assert(t, qt.IsNil(unix.Prlimit(pid, unix.RLIMIT_NOFILE, &low, nil)))
		err = c.Put(t.Context(), "second", many[:500])
		qt.Assert(t, qt.ErrorIs(err, holder.ErrFull))
		qt.Assert(t, qt.IsNil(unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil)))
		counts, err := c.List(t.Context())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.DeepEquals(counts, map[string]int{"big": n}))
	})
	qt.Assert(t, qt.IsNil(c.Drop(t.Context(), "big")))
	settle(t, pid, "socket:", func() int { return listener })
}

func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	qt.Assert(t, qt.IsNil(err))
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	var kib int
	_, err = fmt.Sscanf(after, "%d", &kib)
	qt.Assert(t, qt.IsNil(err))
	return kib
}

// putForever is the client that gets killed.
func putForever(ctx context.Context, path, app, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	c, err := holder.Dial(ctx, path)
	if err != nil {
		return err
	}
	var items []holder.Item
	for i := range n {
		items = append(items, holder.Item{Key: strconv.Itoa(i), File: os.Stdin, Meta: []byte(`{"some":"meta"}`)})
	}
	if _, err := os.Stdout.Write([]byte("ready\n")); err != nil {
		return err
	}
	for round := 1; ; round++ {
		// A different number each time, so that the check sees which one it is.
		if err := c.Put(ctx, app, items[:n-round%3]); err != nil {
			return err
		}
	}
}

// TestKilledClient kills clients at random moments of a Put: the holder must have
// one of the whole lists, and not a descriptor more.
func TestKilledClient(t *testing.T) {
	c, path, pid := spawn(t)
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	const n = 1000
	const input = 1 // the holder's own
	for round := range 20 {
		cmd := exec.CommandContext(t.Context(), exe, "putter", path, "app", strconv.Itoa(n))
		stdin, err := os.Open(os.DevNull)
		qt.Assert(t, qt.IsNil(err))
		cmd.Stdin = stdin
		stdout, err := cmd.StdoutPipe()
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(cmd.Start()))
		qt.Assert(t, qt.IsNil(stdin.Close()))
		_, err = io.ReadFull(stdout, make([]byte, 6))
		qt.Assert(t, qt.IsNil(err))
		<-time.After(time.Duration(round) * 613 * time.Microsecond)
		qt.Assert(t, qt.IsNil(cmd.Process.Signal(syscall.SIGKILL)))
		var exit *exec.ExitError
		qt.Assert(t, qt.IsTrue(errors.As(cmd.Wait(), &exit)))
		settle(t, pid, os.DevNull, func() int {
			counts, err := c.List(t.Context())
			qt.Assert(t, qt.IsNil(err))
			kept := counts["app"]
			qt.Assert(t, qt.IsTrue(len(counts) == 0 || kept >= n-2 && kept <= n), qt.Commentf("kept %d", kept))
			return input + kept
		})
	}
}

// TestStrangers lets another user connect, whom the socket's mode would keep out.
func TestStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	_, path := serve(t)
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		qt.Assert(t, qt.IsNil(os.Chmod(dir, 0o755)))
	}
	qt.Assert(t, qt.IsNil(os.Chmod(path, 0o666)))
	exe, err := os.ReadFile("/proc/self/exe")
	qt.Assert(t, qt.IsNil(err))
	copied := filepath.Join(filepath.Dir(path), "client")
	qt.Assert(t, qt.IsNil(os.WriteFile(copied, exe, 0o755)))
	cmd := exec.CommandContext(t.Context(), copied, "putter", path, "app", "1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	qt.Assert(t, qt.ErrorAs(err, &exit))
	qt.Assert(t, qt.StringContains(string(out), "dial holder: list descriptors: "))
}
