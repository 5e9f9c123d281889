package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

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
	runDir  string
	mount   string // the cgroup v2 mount
	name    string // "/snapctl" or, for another state directory, "/snapctl-<hash>"
	unified bool   // limits are set in cgroup v2
	legacy  string // else: the directory of the v1 controllers
	// subs are those controllers. To look for them takes 0.3 ms.
	subs []cgroup1.Subsystem
}

// OpenCgroups finds the cgroup hierarchies. It mounts what is not mounted, or can't be
// reached, in runDir.
func OpenCgroups(stateDir, runDir string) (*Cgroups, error) {
	c := &Cgroups{runDir: runDir, name: CgroupParent(stateDir)}
	var err error
	if c.mount, err = FindCgroup2(); err != nil {
		return nil, err
	}
	if c.mount == "" {
		if c.mount, err = mountCgroup2(runDir); err != nil {
			return nil, err
		}
	}
	hierarchies, err := legacyHierarchies()
	if err != nil {
		return nil, err
	}
	if c.unified = len(hierarchies) == 0; !c.unified {
		if c.legacy, err = legacyRoot(hierarchies, runDir); err != nil {
			return nil, err
		}
		c.subs = subsystems(c.legacy)
	}
	for _, dir := range c.dirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
	}
	if c.unified {
		account(c.mount, filepath.Join(c.mount, c.name))
	}
	return c, nil
}

// dirs are the daemon's own cgroups, that of v2 first. They stay as long as the daemon,
// also while there is no app: another one may just be about to be made in them.
func (c *Cgroups) dirs() []string {
	dirs := []string{filepath.Join(c.mount, c.name)}
	for _, s := range c.v1() {
		if p, ok := s.(interface{ Path(string) string }); ok {
			dirs = append(dirs, p.Path(c.name))
		}
	}
	return dirs
}

// v1 are the v1 controllers in which limits are set, unless c is unified.
func (c *Cgroups) v1() []cgroup1.Subsystem { return c.subs }

// hierarchy is the same for package cgroup1.
func (c *Cgroups) hierarchy() ([]cgroup1.Subsystem, error) { return c.subs, nil }

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

// Name is the path of the daemon's cgroup within each hierarchy.
func (c *Cgroups) Name() string { return c.name }

// Delete removes the daemon's own cgroups, and what OpenCgroups mounted, if no app is
// left in them.
func (c *Cgroups) Delete() error {
	for _, dir := range c.dirs() {
		err := unix.Rmdir(dir)
		switch {
		case errors.Is(err, unix.EBUSY): // of an app (kernel/cgroup/cgroup.c, cgroup_destroy_locked)
			return nil
		case err != nil && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return unmountOwn(c.runDir)
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
	if g.parent.unified {
		if _, err := cgroup2.NewManager(g.parent.mount, g.name, cgroup2.ToResources(r)); err != nil {
			return fmt.Errorf("make cgroup %s: %w", g.name, err)
		}
		return nil
	}
	if err := os.MkdirAll(g.Path(), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if _, err := cgroup1.New(cgroup1.StaticPath(g.name), r, cgroup1.WithHierarchy(g.parent.hierarchy)); err != nil {
		return fmt.Errorf("make cgroup %s: %w", g.name, err)
	}
	return nil
}

// ErrOccupied says that a process which is no app's is in a cgroup.
var ErrOccupied = errors.New("its cgroup is in use")

// Claim removes what an earlier app of the name left of its cgroup, before another one is
// made. It returns an error wrapping ErrOccupied if a process is in it, or in one below
// it: the app could not be frozen, or ended, without that process. The error names the
// process, and what to do.
func (g *Group) Claim() error {
	left := false
	for _, dir := range g.dirs() {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return fmt.Errorf("look into cgroup %s: %w", path, err)
			case !e.IsDir():
				return nil
			}
			left = true
			return occupied(path)
		})
		if err != nil {
			return err
		}
	}
	if !left {
		return nil
	}
	return g.Delete()
}

// dirs are the cgroup in each hierarchy, that of v2 first.
func (g *Group) dirs() []string {
	dirs := []string{g.Path()}
	for _, s := range g.parent.v1() {
		if p, ok := s.(interface{ Path(string) string }); ok {
			dirs = append(dirs, p.Path(g.name))
		}
	}
	return dirs
}

func occupied(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // ENODEV: removed meanwhile
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into cgroup %s: %w", dir, err)
	}
	pid, _, ok := strings.Cut(string(b), "\n")
	if !ok {
		return nil
	}
	name := ""
	if comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm")); err == nil {
		name = " (" + strings.TrimSpace(string(comm)) + ")"
	}
	return fmt.Errorf("%w: process %s%s, which is no app's, is in %s: end it, move it to another cgroup, or give the app another name", ErrOccupied, pid, name, dir)
}

// Add moves a process into the cgroup.
func (g *Group) Add(pid int) error {
	if err := os.WriteFile(filepath.Join(g.Path(), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("add process %d to cgroup: %w", pid, err)
	}
	if g.parent.unified {
		return nil
	}
	cg, err := cgroup1.Load(cgroup1.StaticPath(g.name), cgroup1.WithHierarchy(g.parent.hierarchy))
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
	if !g.parent.unified {
		for _, s := range g.parent.v1() {
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
	if !g.parent.unified {
		path = filepath.Join(g.parent.legacy, "memory", g.name, "memory.usage_in_bytes")
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
	var errs []error
	for _, dir := range g.dirs() {
		errs = append(errs, removeCgroup(dir))
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
