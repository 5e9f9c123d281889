package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
)

// The first thread is that of a sandbox's first process.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // see above

// This test binary is also a sandbox's first process, and the program in it.
func TestMain(m *testing.M) {
	run := func() error { os.Exit(m.Run()); return nil }
	if len(os.Args) >= 2 {
		switch os.Args[1] {
		case sandbox.InitCommand:
			run = sandbox.Init
		case "program":
			run = program
		}
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// program connects to a unix socket outside of the app, and makes there each thing of which it
// reads the name.
func program() error {
	c, err := net.Dial("unix", "/data/control") //nolint:noctx // a program in an app
	if err != nil {
		return err
	}
	var kept []any
	for lines := bufio.NewScanner(c); lines.Scan(); {
		thing, err := things[lines.Text()]()
		if err != nil {
			return err
		}
		kept = append(kept, thing)
		if _, err := fmt.Fprintln(c, "made"); err != nil {
			return err
		}
	}
	runtime.KeepAlive(kept)
	return nil
}

// things are what the program can have.
var things = map[string]func() (any, error){
	"lent": func() (any, error) { // since its lock is held while the app sleeps
		f, err := os.OpenFile("/data/log", os.O_RDWR|os.O_APPEND, 0)
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		return f, err
	},
	"outside": func() (any, error) { return net.Dial("unix", "/data/control") }, //nolint:noctx // as above
	"counter": func() (any, error) { return unix.Eventfd(3, unix.EFD_SEMAPHORE) },
	"watch": func() (any, error) {
		fd, err := unix.InotifyInit1(0)
		if err == nil {
			_, err = unix.InotifyAddWatch(fd, "/app", unix.IN_ATTRIB)
		}
		return fd, err
	},
	"moved": func() (any, error) {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", "/first") //nolint:forbidigo // a program in an app
		return l, errors.Join(err, os.Rename("/first", "/second"))
	},
	"far": func() (any, error) { // its path is too long to bind a socket to
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", "/near") //nolint:forbidigo // a program in an app
		return l, errors.Join(err, os.Rename("/near", "/"+strings.Repeat("far", 40)))
	},
	"queue": func() (any, error) { return openQueueOfProgram() },
	"shm":   func() (any, error) { return unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600) },
}

// rig is an app whose program runs in a sandbox.
type rig struct {
	*Subject
	tools   *Tools
	ns      *netns.NS
	data    string       // what the app has as /data
	control net.Listener // at /data/control
	in      io.Writer
	out     *bufio.Reader
}

// launch runs the program, and has it make things. A test has one.
func launch(t *testing.T, make ...string) *rig {
	t.Helper()
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	r := &rig{tools: tools(t), data: filepath.Join(dir, "data")}
	r.tools.Log = slog.New(slog.DiscardHandler)
	cgroups, err := cgroup.Open(fmt.Sprintf("/snapctl-test-checkpoint-%d", os.Getpid()), filepath.Join(dir, "run"))
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(cgroups.Delete())) })
	root, limit := t.TempDir(), int64(100)
	exe, err := os.ReadFile("/proc/self/exe")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(root, "app"), exe, 0o755)))
	spec := &specs.Spec{
		Root: &specs.Root{Path: root}, Process: &specs.Process{Args: []string{"/app", "program"}, Cwd: "/"},
		Mounts: []specs.Mount{{Source: r.data, Destination: "/data", Type: "bind", Options: []string{"rbind"}}},
		Linux:  &specs.Linux{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}},
	}
	r.Subject = &Subject{Name: "app", Box: sandbox.New(sandbox.Config{
		Name: "app", StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run", "app"), Cgroups: cgroups, Spec: spec, Log: r.tools.Log,
	})}
	r.Note = func(text, _ string) { t.Log(text) }
	for _, d := range []string{r.work(), r.Box.StateDir, r.data} {
		qt.Assert(t, qt.IsNil(os.MkdirAll(d, 0o700)))
	}
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(r.data, "log"), []byte("one\n"), 0o600)))
	control, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(r.data, "control"))
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { control.Close() })

	r.control = control
	r.ns, err = r.Box.Enclose(t.Context())
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(r.ns.Close()))
		qt.Check(t, qt.IsNil(r.Box.Remove()))
	})
	started, err := r.Box.Launch(t.Context(), r.ns)
	qt.Assert(t, qt.IsNil(err))
	defer started.Close()
	qt.Assert(t, qt.IsNil(r.Box.Furnish(t.Context())))
	proc, err := started.Run()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(r.cgroup().Kill(context.WithoutCancel(t.Context()))))
		_, err := proc.Wait()
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.IsNil(proc.Close()))
	})
	r.PID = proc.PID
	c, err := control.Accept()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { c.Close() })
	r.in, r.out = c, bufio.NewReader(c)
	r.make(t, make...)
	return r
}

// make has the program make things.
func (r *rig) make(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := fmt.Fprintln(r.in, name)
		qt.Assert(t, qt.IsNil(err))
		answer, err := r.out.ReadString('\n')
		if err != nil {
			log, _ := os.ReadFile(r.Box.LogFile())
			t.Fatalf("make %s: %v: %s", name, err, log)
		}
		qt.Assert(t, qt.Equals(answer, "made\n"))
		if name == "outside" {
			c, err := r.control.Accept()
			qt.Assert(t, qt.IsNil(err))
			t.Cleanup(func() { c.Close() })
		}
	}
}

// pids are the app's processes.
func (r *rig) pids(t *testing.T) []int {
	t.Helper()
	pids, err := r.cgroup().PIDs()
	qt.Assert(t, qt.IsNil(err))
	return pids
}

// limit is how many processes the app may have.
func (r *rig) limit(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{r.Box.Cgroup().Path(), filepath.Join("/sys/fs/cgroup/pids", r.Box.Cgroup().Name())} {
		if b, err := os.ReadFile(filepath.Join(dir, "pids.max")); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	t.Fatal("no controller of processes")
	return ""
}
