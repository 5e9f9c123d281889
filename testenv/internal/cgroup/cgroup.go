// Package cgroup makes, walks and removes the cgroup subtree of a scratch host.
//
// A subtree is one cgroup of the same name in every hierarchy that is mounted
// on the machine: cgroup v2, and on a hybrid machine each v1 controller. The
// host's processes live in it, and so does everything they start, so one walk
// finds all of them, whatever namespaces they have moved to.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/internal/mount"
)

// Leaf is the cgroup of the v2 subtree that holds the host's own processes.
//
// A v2 cgroup with processes can't give controllers to its children
// (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"),
// so the root of the subtree stays empty, for the daemon to use.
const Leaf = "init"

// Hierarchy is a mounted cgroup hierarchy.
type Hierarchy struct {
	Mount string
	V2    bool
}

// Hierarchies lists those mounted in the caller's mount namespace.
func Hierarchies() ([]Hierarchy, error) {
	mounts, err := mount.List("self")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var all []Hierarchy
	for _, m := range mounts {
		h := Hierarchy{Mount: m.Point, V2: m.FSType == "cgroup2"}
		if (h.V2 || m.FSType == "cgroup") && !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all, nil
}

// Tree is the subtree called Name in each of Hierarchies.
type Tree struct {
	Name        string
	Hierarchies []Hierarchy
}

// Open describes the subtree called name; nothing is made.
func Open(name string) (*Tree, error) {
	all, err := Hierarchies()
	if err != nil {
		return nil, err
	}
	return &Tree{Name: name, Hierarchies: all}, nil
}

// Dir is the subtree's root in one hierarchy.
func (t *Tree) Dir(h Hierarchy) string { return filepath.Join(h.Mount, t.Name) }

// Create makes the cgroups; they may exist. Needs CAP_SYS_ADMIN.
func (t *Tree) Create() error {
	for _, h := range t.Hierarchies {
		dir := t.Dir(h)
		if h.V2 {
			dir = filepath.Join(dir, Leaf)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if h.V2 {
			continue
		}
		// A v1 cpuset takes no process before it has processors and memory
		// nodes: Documentation/admin-guide/cgroup-v1/cpusets.rst.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(h.Mount, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), b, 0)
			}
			if err != nil {
				return fmt.Errorf("set up cpuset: %w", err)
			}
		}
	}
	return nil
}

// Delegate gives the v2 cgroups below the root the controllers that it has. No
// process may be in the root then, nor later.
func (t *Tree) Delegate() error {
	for _, h := range t.Hierarchies {
		if !h.V2 {
			continue
		}
		if err := delegate(t.Dir(h)); err != nil {
			return err
		}
	}
	return nil
}

// delegate gives the children of a v2 cgroup the controllers that it has.
func delegate(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("delegate cgroup: %w", err)
	}
	for name := range strings.FieldsSeq(string(b)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			return fmt.Errorf("delegate cgroup controller %s: %w", name, err)
		}
	}
	return nil
}

// JoinRoot moves the calling process to the root of each subtree, for it to
// make a cgroup namespace there, before [Tree.Delegate].
func (t *Tree) JoinRoot() error {
	for _, h := range t.Hierarchies {
		if err := join(t.Dir(h)); err != nil {
			return err
		}
	}
	return nil
}

// Join moves the calling process to where the host's own processes live.
func (t *Tree) Join() error {
	for _, h := range t.Hierarchies {
		dir := t.Dir(h)
		if h.V2 {
			dir = filepath.Join(dir, Leaf)
		}
		if err := join(dir); err != nil {
			return err
		}
	}
	return nil
}

// join writes 0, which stands for the writer.
func join(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("join cgroup %s: %w", dir, err)
	}
	return nil
}

// Children lists the cgroups below the roots, each as hierarchy mount + path
// in the subtree, without the Leaf.
func (t *Tree) Children() ([]string, error) {
	var all []string
	err := t.walk(func(h Hierarchy, dir string) error {
		rel, err := filepath.Rel(t.Dir(h), dir)
		if err == nil && rel != "." && rel != Leaf {
			all = append(all, filepath.Join(h.Mount, rel))
		}
		return err
	})
	return all, err
}

// Procs lists the processes in all of the subtree, zombies excepted.
func (t *Tree) Procs() ([]int, error) {
	var pids []int
	err := t.walk(func(_ Hierarchy, dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if gone(err) {
			return nil
		}
		for s := range strings.FieldsSeq(string(b)) {
			pid, aerr := strconv.Atoi(s)
			if aerr == nil && pid > 0 { // 0: not in our pid namespace
				pids = append(pids, pid)
			}
		}
		return err
	})
	slices.Sort(pids)
	return slices.Compact(pids), err
}

// Thaw lets everything in the subtree run. A frozen v2 cgroup can be killed, a
// frozen v1 one can't: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.
func (t *Tree) Thaw() error {
	return t.walk(func(h Hierarchy, dir string) error {
		name, value := "freezer.state", "THAWED"
		if h.V2 {
			name, value = "cgroup.freeze", "0"
		}
		name = filepath.Join(dir, name)
		// No O_CREATE: most v1 hierarchies have no such file.
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if gone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("thaw cgroup: %w", err)
		}
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
		if err != nil && !gone(err) {
			return fmt.Errorf("thaw cgroup %s: %w", dir, err)
		}
		return nil
	})
}

// removePoll is the time between attempts to remove a cgroup.
const removePoll = 5 * time.Millisecond

// Remove removes the cgroups, whose processes must have been killed; it waits
// for the last of them to be gone, or for the end of ctx. Missing cgroups are
// no error.
func (t *Tree) Remove(ctx context.Context) error {
	var dirs []string
	err := t.walk(func(_ Hierarchy, dir string) error {
		dirs = append(dirs, dir)
		return nil
	})
	if err != nil {
		return err
	}
	tick := time.NewTicker(removePoll) // v1 has no event to wait for
	defer tick.Stop()
	for _, dir := range slices.Backward(dirs) { // children come after parents
		err := unix.Rmdir(dir)
		for errors.Is(err, unix.EBUSY) && ctx.Err() == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			err = unix.Rmdir(dir)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// walk calls fn for each cgroup of the subtree, parents first.
func (t *Tree) walk(fn func(h Hierarchy, dir string) error) error {
	for _, h := range t.Hierarchies {
		err := filepath.WalkDir(t.Dir(h), func(path string, d fs.DirEntry, err error) error {
			switch {
			case gone(err):
				return nil
			case err != nil:
				return err
			case !d.IsDir():
				return nil
			}
			return fn(h, path)
		})
		if err != nil {
			return fmt.Errorf("walk cgroup %s: %w", t.Dir(h), err)
		}
	}
	return nil
}

// gone tells that a cgroup went away while it was looked at: a read from an
// open file of a removed cgroup is ENODEV.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
