// Package cgroup makes the control groups of apps: [Tree] is the part of the host's
// hierarchies that belongs to one daemon, and [Group] in it is that of one app, in which
// its processes are frozen, limited and ended. An app finds its own at /sys/fs/cgroup
// ([Group.Views]).
//
// It needs CAP_SYS_ADMIN, and Linux 5.14 (cgroup.kill).
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"golang.org/x/sys/unix"
)

// Tree is the part of the cgroup hierarchy that belongs to one daemon.
//
// Freezing and killing need a cgroup v2 hierarchy. On a host with v2 alone the
// limits are set there too; on a host with v1 controllers (hybrid or legacy)
// they are set in a cgroup of the same name in each of them.
type Tree struct {
	runDir  string
	mount   string // the cgroup v2 mount
	name    string // "/snapctl" or, for another state directory, "/snapctl-<hash>"
	unified bool   // limits are set in cgroup v2
	legacy  string // else: the directory of the v1 controllers
	// subs are those controllers. To look for them takes 0.3 ms.
	subs []cgroup1.Subsystem
}

// Open finds the cgroup hierarchies. It mounts what is not mounted, or can't be
// reached, in runDir, where also the directories are of which [Group.Views] tells. The daemon's part has the path name in each hierarchy ("/snapctl").
func Open(name, runDir string) (*Tree, error) {
	c := &Tree{runDir: runDir, name: name}
	var err error
	if c.mount, err = Find(); err != nil {
		return nil, err
	}
	if c.mount == "" {
		if c.mount, err = mountV2(runDir); err != nil {
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
		account(c.mount, c.Path())
	}
	return c, c.makeViews()
}

// dirs are the daemon's own cgroups, that of v2 first. They stay as long as the daemon,
// also while there is no app: another one may just be about to be made in them.
func (c *Tree) dirs() []string {
	dirs := []string{c.Path()}
	for _, s := range c.v1() {
		if p, ok := s.(interface{ Path(string) string }); ok {
			dirs = append(dirs, p.Path(c.name))
		}
	}
	return dirs
}

// v1 are the v1 controllers in which limits are set, unless c is unified.
func (c *Tree) v1() []cgroup1.Subsystem { return c.subs }

// hierarchy is the same for package cgroup1.
func (c *Tree) hierarchy() ([]cgroup1.Subsystem, error) { return c.subs, nil }

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

// Path is the directory of the daemon's cgroup in the cgroup v2 hierarchy.
func (c *Tree) Path() string { return filepath.Join(c.mount, c.name) }

// Name is the path of the daemon's cgroup within each hierarchy.
func (c *Tree) Name() string { return c.name }

// Delete removes the daemon's own cgroups, and what Open made and mounted, if no app is
// left in them.
func (c *Tree) Delete() error {
	for _, dir := range c.dirs() {
		err := unix.Rmdir(dir)
		switch {
		case errors.Is(err, unix.EBUSY): // of an app (kernel/cgroup/cgroup.c, cgroup_destroy_locked)
			return nil
		case err != nil && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return errors.Join(c.removeViews(), unmountOwn(c.runDir))
}

// Group returns the cgroup of the app called name, which need not exist.
func (c *Tree) Group(name string) *Group {
	return &Group{parent: c, name: filepath.Join(c.name, name)}
}

// Expel moves a process from the cgroup v2 of an app to the daemon's own.
func (c *Tree) Expel(pid int) error {
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
