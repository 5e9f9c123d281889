package host_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestMain lets this test binary be the daemon, under the daemon's name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "snapctld" {
		err := fakeDaemon(context.Background()) //nolint:forbidigo // this is the main function of a process
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// fakeDaemon does what a scratch host expects of snapctld: it listens, has a
// process that survives it, and ends at SIGTERM.
func fakeDaemon(ctx context.Context) error {
	fmt.Fprintln(os.Stderr, "arguments:", os.Args[1:])
	if os.Getenv("FAKE_FAIL") != "" {
		return fmt.Errorf("told to fail")
	}
	if err := os.MkdirAll(host.RunDir, 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(host.SocketPath); err != nil {
		return err
	}
	holder := exec.CommandContext(context.WithoutCancel(ctx), "sleep", "1002")
	holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := holder.Start(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", host.SocketPath)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return l.Close()
}

// useFakeDaemon makes the next hosts run it.
func useFakeDaemon(t *testing.T) {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	_, err := testenv.Install(t.Context(), "hostkeeper", dir)
	qt.Assert(t, qt.IsNil(err))
	self, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.Symlink(self, filepath.Join(dir, "snapctld"))))
	t.Setenv("SNAPCTL_BIN_DIR", dir)
}

func TestDaemon(t *testing.T) {
	useFakeDaemon(t)
	h := host.New(t, host.Config{CRIU: "/no/criu"})
	ctx := t.Context()

	_, err := h.DaemonPID()
	qt.Check(t, qt.ErrorIs(err, host.ErrNoDaemon))
	qt.Check(t, qt.ErrorIs(h.KillDaemon(ctx, syscall.SIGKILL), host.ErrNoDaemon))

	qt.Assert(t, qt.IsNil(h.StartDaemon(ctx, host.Daemon{Args: []string{"--more"}})))
	first, err := h.DaemonPID()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.ErrorMatches(h.StartDaemon(ctx, host.Daemon{}), ".*one is running"))
	want := fmt.Sprintf("arguments: [--state-dir %s --run-dir %s --criu /no/criu --more]", h.StateDir(), host.RunDir)
	qt.Check(t, qt.StringContains(h.DaemonLog(), want))

	qt.Assert(t, qt.IsNil(h.KillDaemon(ctx, syscall.SIGKILL)))
	_, err = os.Stat(h.Socket())
	qt.Check(t, qt.IsNil(err)) // the namespace outlives the daemon
	pids, err := h.Pids()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(pids, 2)) // the keeper and the holder

	qt.Assert(t, qt.IsNil(h.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
	qt.Assert(t, qt.IsNil(h.RestartDaemon(ctx, syscall.SIGTERM, host.Daemon{})))
	last, err := h.DaemonPID()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.Equals(last, first)))

	qt.Assert(t, qt.IsNil(h.KillDaemon(ctx, syscall.SIGTERM)))
	state, err := h.WaitDaemon(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(state.Success()))
}

func TestDaemonThatEnds(t *testing.T) {
	useFakeDaemon(t)
	h := host.New(t, host.Config{})
	err := h.StartDaemon(t.Context(), host.Daemon{Env: []string{"FAKE_FAIL=1"}})
	qt.Check(t, qt.ErrorMatches(err, `(?s)start daemon: it ended: exit status 1\n.*told to fail\n`))
}

// TestSweep kills a process that has a host, and its keeper, and expects the
// next host to remove what they left.
func TestSweep(t *testing.T) {
	useFakeDaemon(t)
	if dir := os.Getenv("TESTENV_HOST_CHILD"); dir != "" {
		h := host.New(t, host.Config{})
		qt.Assert(t, qt.IsNil(h.StartDaemon(t.Context(), host.Daemon{})))
		qt.Assert(t, qt.IsNil(os.WriteFile(dir, fmt.Appendf(nil, "%s %d", h.Dir(), h.KeeperPID()), 0o600)))
		qt.Assert(t, qt.IsNil(syscall.Kill(os.Getpid(), syscall.SIGKILL)))
	}
	t.Setenv("SNAPCTL_TEST_DIR", t.TempDir()) // where no other test sweeps
	for name, killKeeper := range map[string]bool{"keeper ends it": false, "keeper killed too": true} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "host")
			self, err := os.Executable()
			qt.Assert(t, qt.IsNil(err))
			child := exec.CommandContext(t.Context(), self, "-test.run", "^TestSweep$")
			child.Env = append(os.Environ(), "TESTENV_HOST_CHILD="+file)
			qt.Check(t, qt.ErrorMatches(child.Run(), "signal: killed"))
			b, err := os.ReadFile(file)
			qt.Assert(t, qt.IsNil(err))
			var dir string
			var keeper int
			_, err = fmt.Sscan(string(b), &dir, &keeper)
			qt.Assert(t, qt.IsNil(err))
			if killKeeper {
				_ = syscall.Kill(keeper, syscall.SIGKILL) // races with its own end
			}
			_, err = os.Stat(dir)
			qt.Assert(t, qt.IsNil(err))

			h := host.New(t, host.Config{})
			_, err = os.Stat(dir)
			qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
			out := output(t, h, "find", filepath.Dir(dir), "-name", filepath.Base(dir))
			qt.Check(t, qt.Equals(strings.TrimSpace(out), ""))
		})
	}
}
