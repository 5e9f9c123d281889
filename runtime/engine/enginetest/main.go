// Package enginetest has what tests of the engine share with tests of the rooms above it: an engine
// with all of its rooms, as a daemon opens them, in namespaces of the test's own. CRIU alone is a
// fake, which starts the program of an app anew to revive it.
//
// It needs root, and a test binary that is linked statically (CGO_ENABLED=0): the binary is also
// the program of the apps, whose root directory has nothing else.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/vem/holder"
	"github.com/snapctl/snapctl/vem/netns"
)

// The first thread is that of a sandbox's first process.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // see above

// insideEnv tells a test process that it is in the namespaces of the tests, and where the apps'
// root directory is.
const insideEnv = "SNAPCTL_TEST_ENGINE_ROOT"

// Main runs the tests of a package in namespaces of their own: no network, mount or process of theirs
// is one of the machine's. It returns the exit code of the process. A package that has a [World]
// calls it in its TestMain.
//
// The test binary is also what snapctld starts (a sandbox's first process and the holder), the
// program in the apps, a command in them, "/app write FILE...", and what else a first argument names: roles has these. run runs the tests.
func Main(m *testing.M, run func(*testing.M) int, roles map[string]func() error) (code int) {
	role := func() (err error) { code, err = runTests(m, run); return err }
	if len(os.Args) >= 2 {
		switch other, ok := roles[os.Args[1]]; {
		case ok:
			role = other
		case os.Args[1] == sandbox.InitCommand:
			role = sandbox.Init
		case os.Args[1] == "holder":
			role = holderProcess
		case os.Args[1] == "program":
			role = program
		case os.Args[1] == "write":
			role = func() error { return writeFiles(os.Args[2:]) }
		}
	}
	err := role()
	switch {
	case errors.Is(err, errTerminated):
		code = terminated
	case err != nil:
		code = 1
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// runTests runs the tests, inside if it may, and returns the exit code.
func runTests(m *testing.M, run func(*testing.M) int) (code int, err error) {
	if os.Getenv(insideEnv) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return 1, fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return 1, fmt.Errorf("mount /proc: %w", err)
		}
		return run(m), nil
	}
	if os.Geteuid() != 0 {
		return run(m), nil // most tests skip
	}
	return runInside()
}

// runInside runs the tests in new namespaces, and returns their exit code.
func runInside() (code int, err error) {
	root, err := os.MkdirTemp("", "engine-root-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(root, "app"), exe, 0o755); err != nil {
		return 0, err
	}
	ns, err := netns.New()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...) //nolint:forbidigo // a main function
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if err := ns.Do(cmd.Start); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// holderProcess is "holder --socket PATH".
func holderProcess() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // a main function
	defer stop()
	return holder.Run(ctx, os.Args[3], slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// terminated is the exit code of a program that ends with errTerminated, since it was asked to end.
const terminated = 7

var errTerminated = errors.New("terminated")

// writeFiles is "write FILE...", a command in apps.
func writeFiles(names []string) error {
	for _, name := range names {
		if err := os.WriteFile(name, []byte("written by the app"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// program runs in apps until it gets SIGTERM. It writes the files that its arguments name, or watches
// its root directory for "watch", before it listens on TCP port 80.
func program() error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	for _, arg := range os.Args[2:] {
		if arg == "watch" {
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err != nil {
				return err
			}
			if _, err := unix.InotifyAddWatch(fd, "/", unix.IN_ATTRIB); err != nil {
				return err
			}
			continue
		}
		if err := writeFiles([]string{arg}); err != nil {
			return err
		}
	}
	// One that was woken listens anew while its sockets are still held.
	anew := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, serr)
	}}
	l, err := anew.Listen(context.Background(), "tcp", ":80") //nolint:forbidigo // a program in an app
	if err != nil {
		return err
	}
	defer l.Close()
	<-stop
	return errTerminated
}
