package criu

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// role is the variable that makes this test program one of the processes below.
const role = "SNAPCTL_TEST_ROLE"

// TestMain plays a role, or runs the tests.
func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "root":
		playRoot()
	case "criu":
		if err := playCRIU(); err != nil {
			_, _ = fmt.Fprintln(os.Stdout, err)
			os.Exit(1)
		}
	}
}

// playRoot is a root task with threads, on all of which somebody waits.
func playRoot() {
	for range 3 {
		go func() { _ = unix.Pause() }() // has a thread of its own
	}
	_, _ = fmt.Fprintln(os.Stdout, "here")
	_ = unix.Pause()
}

// playCRIU does what CRIU does when it fails late: it traces all threads of the root
// task, kills it, and waits for it alone. It tells the root task's number first.
func playCRIU() error {
	runtime.LockOSThread() //nolint:forbidigo // a tracer is a thread; the process ends with it
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=root")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return err
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", cmd.Process.Pid))
	if err != nil {
		return err
	}
	for _, e := range threads {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		if err := unix.PtraceSeize(tid); err != nil {
			return err
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, cmd.Process.Pid); err != nil {
		return err
	}
	_, err = unix.Wait4(cmd.Process.Pid, nil, unix.WALL, nil)
	return fmt.Errorf("waited: %w", err)
}

// playing starts a session with this test program in CRIU's place.
func playing(t *testing.T) (s *session, lines *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	var out *os.File
	c := fake(t, fmt.Sprintf("%s=criu exec %s", role, self))
	s, err = c.start(t.Context(), process{start: func(cmd *exec.Cmd) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer w.Close()
		out, cmd.Stdout = r, w
		return cmd.Start()
	}})
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { _ = out.Close() })
	return s, bufio.NewReader(out)
}

// TestStuck has a CRIU wait for a root task that in turn waits for it.
func TestStuck(t *testing.T) {
	testenv.Need(t, testenv.Root)
	s, lines := playing(t)
	line, err := lines.ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	root, err := strconv.Atoi(strings.TrimSpace(line))
	qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", line))
	// It is stuck: it does nothing, and the root task has come to its end.
	until(t, "the root task ends", func() bool { return ending(root) })
	look := stuckness{criu: s.cmd.Process.Pid, root: root}
	until(t, "it does nothing", look.again)
	qt.Assert(t, qt.IsTrue(alive(root)))

	s.endIfStuck(root, 10*time.Millisecond)
	<-s.ended
	s.mute = true
	qt.Assert(t, qt.ErrorMatches(s.close(), "criu: signal: killed"))
	_, err = lines.ReadString('\n')
	qt.Assert(t, qt.IsNotNil(err)) // it never got what it waited for
	until(t, "the root task is gone", func() bool { return !alive(root) })
}

// TestNotStuck looks at what only looks like it.
func TestNotStuck(t *testing.T) {
	dead := exec.Command("true")
	qt.Assert(t, qt.IsNil(dead.Start()))
	t.Cleanup(func() { _ = dead.Wait() })
	until(t, "a zombie", func() bool { return ending(dead.Process.Pid) })
	living := exec.Command("sleep", "1000")
	qt.Assert(t, qt.IsNil(living.Start()))
	t.Cleanup(func() { _, _ = living.Process.Kill(), living.Wait() })
	qt.Assert(t, qt.IsFalse(ending(living.Process.Pid)))
	qt.Assert(t, qt.IsFalse(ending(1<<22+1))) // there is none

	for name, tt := range map[string]struct {
		script string
		root   int
		stuck  bool
	}{
		"idle, root ended":            {"exec sleep 1000", dead.Process.Pid, true},
		"idle behind a wrapper":       {"sleep 1000; exit", dead.Process.Pid, true},
		"idle, root alive":            {"exec sleep 1000", living.Process.Pid, false},
		"at work":                     {"while :; do :; done", dead.Process.Pid, false},
		"at work, with pauses":        {"while :; do sleep 0.001; done", dead.Process.Pid, false},
		"at work, behind a wrapper":   {"(while :; do :; done); exit", dead.Process.Pid, false},
		"waits for the disk or so on": {"kill -STOP $$", dead.Process.Pid, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := fake(t, "echo $$ >$0.pid; "+tt.script).start(t.Context(), process{})
			qt.Assert(t, qt.IsNil(err))
			defer func() {
				s.kill()
				s.mute = true
				_ = s.close()
			}()
			look := stuckness{criu: s.cmd.Process.Pid, root: tt.root}
			if tt.stuck {
				until(t, "it does nothing", look.again)
				return
			}
			until(t, "it has begun", func() bool { _, err := os.Stat(filepath.Join(filepath.Dir(s.cmd.Path), "criu.pid")); return err == nil })
			tick := time.NewTicker(5 * time.Millisecond) // so that it comes to do something
			defer tick.Stop()
			for range 20 {
				qt.Assert(t, qt.IsFalse(look.again()))
				<-tick.C
			}
		})
	}
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

// until asks again and again.
func until(t *testing.T, what string, ask func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ask(); <-tick.C {
		qt.Assert(t, qt.IsTrue(time.Now().Before(deadline)), qt.Commentf("never: %s", what))
	}
}
