package sandbox

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// DefaultStateDir is where a daemon keeps its state unless it is told otherwise.
const DefaultStateDir = "/var/lib/snapctl"

// Cgroups is the part of the cgroup hierarchy that belongs to one daemon.
//
// Freezing and killing need a cgroup v2 hierarchy. On a host with v2 alone the
// limits are set there too; on a host with v1 controllers (hybrid or legacy)
// they are set in a cgroup of the same name in each of them.
type Cgroups struct {
	mount string // the cgroup v2 mount
	name  string // "/snapctl" or, for another state directory, "/snapctl-<hash>"
	mode  cgroups.CGMode
	// v1 is where limits are set, unless mode is Unified. To look for it takes 0.3 ms.
	v1 func() ([]cgroup1.Subsystem, error)
}

// OpenCgroups finds the cgroup v2 hierarchy, or mounts one in runDir.
func OpenCgroups(stateDir, runDir string) (*Cgroups, error) {
	c := &Cgroups{name: CgroupParent(stateDir), mode: cgroups.Mode(), v1: sync.OnceValues(limitHierarchy)}
	mount, err := FindCgroup2()
	if err != nil {
		return nil, err
	}
	if mount == "" {
		mount = filepath.Join(runDir, "cgroup2")
		if err := os.MkdirAll(mount, 0o755); err != nil {
			return nil, fmt.Errorf("make cgroup mount point: %w", err)
		}
		if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
			return nil, fmt.Errorf("mount cgroup2: %w", err)
		}
	}
	c.mount = mount
	if err := os.MkdirAll(filepath.Join(mount, c.name), 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	if c.mode == cgroups.Unified {
		account(mount, filepath.Join(mount, c.name))
	}
	return c, nil
}

// account has the memory of the cgroups below some be accounted for, if the host
// allows it. Only limits would ask for that otherwise, and apps without any would
// have no [Group.MemoryBytes].
func account(dirs ...string) {
	for _, dir := range dirs {
		if os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0) != nil {
			return // the controller is off, or not ours to give
		}
	}
}

// CgroupParent names the cgroup below which a daemon with this state directory
// puts its apps, so that several daemons on one kernel stay apart.
func CgroupParent(stateDir string) string {
	if stateDir == DefaultStateDir {
		return "/snapctl"
	}
	sum := sha256.Sum256([]byte(stateDir))
	return fmt.Sprintf("/snapctl-%x", sum[:4])
}

// FindCgroup2 finds where a cgroup v2 hierarchy is mounted; "" if none is.
func FindCgroup2() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	in := bufio.NewScanner(f)
	for in.Scan() {
		head, tail, ok := strings.Cut(in.Text(), " - ")
		if fields := strings.Fields(head); ok && strings.HasPrefix(tail, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", in.Err()
}

// Name is the path of the daemon's cgroup within each hierarchy.
func (c *Cgroups) Name() string { return c.name }

// Delete removes the daemon's own cgroup, if no app is left in it.
func (c *Cgroups) Delete() error {
	// EBUSY: of an app (kernel/cgroup/cgroup.c, cgroup_destroy_locked).
	err := unix.Rmdir(filepath.Join(c.mount, c.name))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove cgroup %s: %w", c.name, err)
	}
	return nil
}

// Group returns the cgroup of the app called name, which need not exist.
func (c *Cgroups) Group(name string) *Group {
	return &Group{parent: c, name: filepath.Join(c.name, name)}
}

// Group is the cgroup of one app.
type Group struct {
	parent *Cgroups
	name   string
}

// Path is the cgroup v2 directory.
func (g *Group) Path() string { return filepath.Join(g.parent.mount, g.name) }

// Name is the cgroup's path within each hierarchy.
func (g *Group) Name() string { return g.name }

// Create makes the cgroup and sets its limits. It may exist, and then is made anew
// unless a process is in it: since Linux 6.14 nothing can be started in a cgroup in
// which something was ever killed by cgroup.kill (cgroup.c: cgroup_css_set_fork takes
// the parent's kill_seq, and cgroup_post_fork kills what differs from the cgroup's).
func (g *Group) Create(_ context.Context, r *specs.LinuxResources) error {
	if err := unix.Rmdir(g.Path()); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("make cgroup anew: %w", err)
	}
	if g.parent.mode == cgroups.Unified {
		if _, err := cgroup2.NewManager(g.parent.mount, g.name, cgroup2.ToResources(r)); err != nil {
			return fmt.Errorf("make cgroup %s: %w", g.name, err)
		}
		return nil
	}
	if err := os.MkdirAll(g.Path(), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if _, err := cgroup1.New(cgroup1.StaticPath(g.name), r, cgroup1.WithHierarchy(g.parent.v1)); err != nil {
		return fmt.Errorf("make cgroup %s: %w", g.name, err)
	}
	return nil
}

// limitHierarchy is the part of cgroup v1 in which limits are set. The v1
// freezer and devices controllers stay unused.
func limitHierarchy() ([]cgroup1.Subsystem, error) {
	all, err := cgroup1.Default()
	if err != nil {
		return nil, err
	}
	limits := []cgroup1.Name{cgroup1.Memory, cgroup1.Cpu, cgroup1.Cpuacct, cgroup1.Cpuset, cgroup1.Pids, cgroup1.Blkio}
	some := slices.DeleteFunc(all, func(s cgroup1.Subsystem) bool { return !slices.Contains(limits, s.Name()) })
	return some, nil
}

// Add moves a process into the cgroup.
func (g *Group) Add(pid int) error {
	if err := os.WriteFile(filepath.Join(g.Path(), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("add process %d to cgroup: %w", pid, err)
	}
	if g.parent.mode == cgroups.Unified {
		return nil
	}
	cg, err := cgroup1.Load(cgroup1.StaticPath(g.name), cgroup1.WithHierarchy(g.parent.v1))
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", g.name, err)
	}
	if err := cg.AddProc(uint64(pid)); err != nil {
		return fmt.Errorf("add process %d to cgroup: %w", pid, err)
	}
	return nil
}

// Start starts a command in the cgroup. The caller's thread is moved into the
// cgroup's v1 part, so it must be one that dies.
//
// To move a process takes the kernel an RCU grace period, some 10 ms; to move the
// calling thread alone, or to be born in another cgroup, takes it none (cgroup.c,
// cgroup_procs_write_start and cgroup_css_set_fork; Linux 5.7).
func (g *Group) Start(cmd *exec.Cmd) error {
	dir, err := os.Open(g.Path())
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer dir.Close() //nolint:errcheck // a handle
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	if g.parent.mode != cgroups.Unified {
		subs, err := g.parent.v1()
		if err != nil {
			return fmt.Errorf("enter cgroup %s: %w", g.name, err)
		}
		for _, s := range subs {
			p, ok := s.(interface{ Path(string) string })
			if !ok {
				continue
			}
			if err := os.WriteFile(filepath.Join(p.Path(g.name), "tasks"), []byte("0"), 0); err != nil {
				return fmt.Errorf("enter cgroup %s: %w", g.name, err)
			}
		}
	}
	return cmd.Start()
}

// Expel moves a process from the cgroup v2 of an app to the daemon's own.
func (c *Cgroups) Expel(pid int) error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("find own cgroup: %w", err)
	}
	for line := range strings.Lines(string(own)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		if err := os.WriteFile(filepath.Join(c.mount, path, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("move process %d out of the app's cgroup: %w", pid, err)
		}
		return nil
	}
	return errors.New("find own cgroup: no cgroup v2")
}

// MemoryBytes is how much memory the cgroup uses, or 0 if that is not known.
func (g *Group) MemoryBytes() int64 {
	path := filepath.Join(g.Path(), "memory.current")
	if g.parent.mode != cgroups.Unified {
		path = filepath.Join("/sys/fs/cgroup/memory", g.name, "memory.usage_in_bytes")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Delete removes the cgroup, which must be empty; a missing one is no error.
func (g *Group) Delete() error {
	errs := []error{removeCgroup(g.Path())}
	if g.parent.mode != cgroups.Unified {
		if subs, err := g.parent.v1(); err == nil {
			for _, s := range subs {
				if p, ok := s.(interface{ Path(string) string }); ok {
					errs = append(errs, removeCgroup(p.Path(g.name)))
					// The last app takes the parent with it.
					_ = unix.Rmdir(p.Path(g.parent.name))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes an empty cgroup and its empty children.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeCgroup(filepath.Join(dir, e.Name())))
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
	}
	return errors.Join(errs...)
}
