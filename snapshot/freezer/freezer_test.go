package freezer_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/testenv"
)

// group makes a cgroup with a shell that runs script in it.
func group(t *testing.T, script string) (freezer.Cgroup, *exec.Cmd) {
	t.Helper()
	testenv.Need(t, testenv.Root)
	b, err := os.ReadFile("/proc/self/mountinfo")
	qt.Assert(t, qt.IsNil(err))
	mount := ""
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " - cgroup2 ") {
			mount = strings.Fields(line)[4]
		}
	}
	if mount == "" {
		t.Skip("no cgroup2 is mounted")
	}
	dir, err := os.MkdirTemp(mount, "freezer-test-") //nolint:usetesting // a cgroup, not a folder of files
	qt.Assert(t, qt.IsNil(err))
	g := freezer.Cgroup(dir)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read go; "+script)
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		qt.Check(t, qt.IsNil(g.Kill(ctx)))
		_ = cmd.Wait() // killed
		qt.Check(t, qt.IsNil(os.Remove(dir)))
	})
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0)))
	_, err = in.Write([]byte("go\n"))
	qt.Assert(t, qt.IsNil(err))
	return g, cmd
}

func TestFreezeThawKill(t *testing.T) {
	g, cmd := group(t, "while :; do :; done")
	qt.Assert(t, qt.IsNil(g.Freeze(t.Context())))
	qt.Assert(t, qt.IsNil(g.Freeze(t.Context()))) // does nothing
	s, err := g.State()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(s, freezer.State{Populated: true, Frozen: true}))
	pids, err := g.PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(pids, []int{cmd.Process.Pid}))
	qt.Assert(t, qt.IsNil(g.Thaw()))
	qt.Assert(t, qt.IsNil(g.Freeze(t.Context())))
	qt.Assert(t, qt.IsNil(g.Kill(t.Context()))) // frozen ones too
	s, err = g.State()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(s, freezer.State{}))
}

// TestKillWithoutFirstThread ends a process whose first thread has ended before.
func TestKillWithoutFirstThread(t *testing.T) {
	g, cmd := group(t, `exec /usr/bin/python3 -c '
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2), of this thread alone'`)
	stat := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "stat")
	state := func() string {
		b, err := os.ReadFile(stat)
		qt.Assert(t, qt.IsNil(err))
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):]))
		return fields[1]
	}
	for deadline := time.Now().Add(20 * time.Second); state() != "Z"; <-time.After(10 * time.Millisecond) { // no event tells
		if time.Now().After(deadline) {
			t.Fatalf("the first thread does not end: state %s", state())
		}
	}
	s, err := g.State()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(s.Populated))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	qt.Assert(t, qt.IsNil(g.Kill(ctx)))
	s, err = g.State()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(s, freezer.State{}))
}

func TestMissingCgroupHasNoProcesses(t *testing.T) {
	g := freezer.Cgroup(filepath.Join(t.TempDir(), "missing"))
	qt.Assert(t, qt.IsNil(g.Kill(t.Context())))
	pids, err := g.PIDs()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(pids, 0))
	qt.Assert(t, qt.ErrorIs(g.Freeze(t.Context()), os.ErrNotExist))
}

// TestFreezeSeizable freezes a shell that makes children by vfork all the
// time; its ctx ends before a moment is found only if there is none.
func TestFreezeSeizable(t *testing.T) {
	g, cmd := group(t, "while :; do /bin/true; done")
	for range 20 {
		qt.Assert(t, qt.IsNil(g.FreezeSeizable(t.Context())))
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "stat"))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Not(qt.Equals(strings.Fields(string(b))[2], "D")))
		qt.Assert(t, qt.IsNil(g.Thaw()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := g.FreezeSeizable(ctx)
	if err != nil { // it may have been frozen at once
		qt.Assert(t, qt.IsTrue(errors.Is(err, context.Canceled)))
		s, err := g.State()
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(s.Populated))
	}
}
