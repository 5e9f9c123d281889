package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/stdio"
	"github.com/snapctl/snapctl/snapshot/terminal"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
)

// The first thread is that of a sandbox's first process.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // see above

// This test binary is also a sandbox's first process, and the program in it.
func TestMain(m *testing.M) {
	run := func() error { os.Exit(m.Run()); return nil }
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case sandbox.InitCommand:
			run = sandbox.Init
		case "counter":
			run = count
		}
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// count answers each line of its standard input with how many there were: who goes on
// counting is the process that it was. "FILE=" writes to a file of its root directory,
// "net" tells its network namespace, and "tty" writes to /dev/tty, which it has had open
// since its start.
func count() error {
	control, err := unix.Open("/dev/tty", unix.O_RDWR, 0) // fails without a terminal
	fmt.Fprintln(os.Stderr, "ready")
	lines := bufio.NewScanner(os.Stdin)
	for n := 1; lines.Scan(); n++ {
		answer := lines.Text()
		if name, ok := strings.CutSuffix(answer, "="); ok {
			if err := os.WriteFile("/"+name, fmt.Append(nil, n), 0o600); err != nil {
				return err
			}
		}
		if answer == "net" {
			answer, _ = os.Readlink("/proc/self/ns/net")
		}
		if answer == "tty" {
			if _, werr := unix.Write(control, []byte("by /dev/tty\n")); err != nil || werr != nil {
				return errors.Join(err, werr)
			}
		}
		if _, err := fmt.Fprintf(os.Stdout, "%d %s\n", n, answer); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stdout, "end")
	return lines.Err()
}

// rig is a program in a sandbox, which can be saved and restored.
type rig struct {
	t       *testing.T
	box     *sandbox.Sandbox
	cgroups *cgroup.Tree
	ns      *netns.NS
	proc    *process.Process
	held    sandbox.Streams // while the program sleeps
	store   *memory.Store
	work    string
}

// start runs the program as cfg chooses.
func start(t *testing.T, cfg sandbox.Config) *rig {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.CRIU)
	dir := t.TempDir()
	r := &rig{t: t, work: filepath.Join(dir, "work")}
	var err error
	r.cgroups, err = cgroup.Open(fmt.Sprintf("/snapctl-test-sandbox-%d", os.Getpid()), filepath.Join(dir, "run"))
	qt.Assert(t, qt.IsNil(err))
	r.store, err = memory.Open(filepath.Join(dir, "memory"))
	qt.Assert(t, qt.IsNil(err))
	if cfg.Rootfs == "" {
		cfg.Rootfs = makeRoot(t)
	}
	cfg.Name, cfg.StateDir, cfg.RunDir, cfg.Cgroups = "app", filepath.Join(dir, "state"), filepath.Join(dir, "run", "app"), r.cgroups
	cfg.Spec = &specs.Spec{Root: &specs.Root{Path: cfg.Rootfs}, Process: &specs.Process{Args: []string{"/app", "counter"}, Cwd: "/"}}
	r.box = sandbox.New(cfg)
	for _, d := range []string{r.work, cfg.StateDir} {
		qt.Assert(t, qt.IsNil(os.MkdirAll(d, 0o700)))
	}
	r.ns, err = r.box.Enclose(t.Context())
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(r.remove)
	launch, err := r.box.Launch(t.Context(), r.ns)
	qt.Assert(t, qt.IsNil(err))
	defer launch.Close()
	qt.Assert(t, qt.IsNil(r.box.Furnish(t.Context())))
	r.proc, err = launch.Run()
	qt.Assert(t, qt.IsNil(err))
	return r
}

// makeRoot makes a root directory with the program in it.
func makeRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	exe, err := os.ReadFile("/proc/self/exe")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(root, "app"), exe, 0o755)))
	return root
}

func (r *rig) group() freezer.Cgroup { return freezer.Cgroup(r.box.Cgroup().Path()) }

// remove ends the program and takes the sandbox away.
func (r *rig) remove() {
	ctx := context.WithoutCancel(r.t.Context())
	qt.Check(r.t, qt.IsNil(r.group().Kill(ctx)))
	if r.proc != nil {
		_, err := r.proc.Wait()
		qt.Check(r.t, qt.IsNil(err))
		qt.Check(r.t, qt.IsNil(r.proc.Close()))
	}
	qt.Check(r.t, qt.IsNil(r.held.Close()))
	qt.Check(r.t, qt.IsNil(r.ns.Close()))
	qt.Check(r.t, qt.IsNil(r.box.Remove()))
	qt.Check(r.t, qt.IsNil(r.cgroups.Delete()))
}

func (r *rig) client() criu.Client { return criu.Client{Path: testenv.CRIUPath()} }

// save ends the program and keeps it as a snapshot, and the ends of its streams open.
func (r *rig) save() snapshot.Dir {
	r.t.Helper()
	files, err := r.box.OpenStdio()
	qt.Assert(r.t, qt.IsNil(err))
	r.held = files
	streams, err := stdio.Find(r.proc.PID, files)
	qt.Assert(r.t, qt.IsNil(err))
	control, err := terminal.External(r.box.Dev())
	qt.Assert(r.t, qt.IsNil(err))
	external := []snapshot.External{{Kind: snapshot.ExternalNet, Key: "net"}, {Kind: snapshot.ExternalDev, Key: "dev", Path: "/dev"}}
	names := []string{"mnt[/dev]:dev", control}
	for _, s := range streams {
		external, names = append(external, snapshot.StreamOf(s)), append(names, s.Key)
	}
	for _, v := range r.box.Views() {
		external = append(external, snapshot.External{Kind: snapshot.ExternalMount, Key: v.Key, Path: v.Path})
		names = append(names, fmt.Sprintf("mnt[%s]:%s", v.Path, v.Key))
	}
	taken, err := snapshot.Take(r.t.Context(), r.client(), snapshot.TakeOptions{
		Target: filepath.Join(r.box.StateDir, "hibernation"), PID: r.proc.PID, Cgroup: r.group(), Root: r.box.Root(), Work: r.work,
		External: names, After: snapshot.End, MemoryOptions: snapshot.MemoryOptions{Store: r.store, Whole: true},
		Start: func(cmd *exec.Cmd) error { return r.box.StartBeside(r.ns, cmd, nil) },
		Hooks: snapshot.Hooks{
			Frozen: func(ctx context.Context, pids []int) ([]snapshot.External, error) {
				var console *os.File
				if r.box.Stdio.Terminal != "" {
					console = files[0]
				}
				controls, err := terminal.Controls(ctx, r.proc.PID, pids, console)
				list := make([]snapshot.External, len(controls))
				for i, c := range controls {
					list[i] = snapshot.TerminalAt(c)
				}
				return list, err
			},
			Committed: r.box.FreeTerminal,
		},
		Manifest: snapshot.Manifest{Name: "app", App: "app", CreatedAt: time.Now(), Spec: r.box.Spec, External: external},
	})
	qt.Assert(r.t, qt.IsNil(err))
	_, err = r.proc.Wait()
	qt.Assert(r.t, qt.IsNil(err))
	qt.Assert(r.t, qt.IsNil(r.proc.Close()))
	r.proc = nil
	qt.Assert(r.t, qt.IsNil(r.box.Renew(r.t.Context())))
	return taken.Dir
}

// restore makes the program again.
func (r *rig) restore(from snapshot.Dir) {
	r.t.Helper()
	m, err := from.Open(r.t.Context(), snapshot.ByStamp, r.store)
	qt.Assert(r.t, qt.IsNil(err))
	streams, err := r.box.OpenStdio()
	qt.Assert(r.t, qt.IsNil(err))
	pid, err := restore.Run(r.t.Context(), r.client(), restore.Options{
		Snapshot: from, Manifest: m, Memory: r.store, Pages: restore.Copy,
		Place: restore.Place{
			Root: r.box.Root(), Net: r.ns.File(), Dev: r.box.Dev(), Binds: r.box.ViewSources(), Stdio: streams, Work: r.work, View: r.work,
		},
		Start: func(cmd *exec.Cmd) error { return r.box.StartInside(r.ns, cmd) },
	})
	qt.Assert(r.t, qt.IsNil(err))
	r.proc, err = process.Open(pid)
	qt.Assert(r.t, qt.IsNil(err))
	qt.Assert(r.t, qt.IsNil(streams.Close()))
	qt.Assert(r.t, qt.IsNil(r.held.Close()))
	r.held = sandbox.Streams{}
}
