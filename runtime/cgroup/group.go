package cgroup

import (
	"context"
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

// Group is the cgroup of one app.
type Group struct {
	parent *Tree
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
		errs = append(errs, remove(dir))
	}
	return errors.Join(errs...)
}

// remove removes an empty cgroup and its empty children.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, remove(filepath.Join(dir, e.Name())))
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
	}
	return errors.Join(errs...)
}
