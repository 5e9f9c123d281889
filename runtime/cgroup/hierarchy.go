package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// limitControllers are the cgroup v1 controllers in which limits are set, where they
// are not those of cgroup v2. The v1 freezer and devices controllers stay unused.
var limitControllers = []cgroup1.Name{cgroup1.Memory, cgroup1.Cpu, cgroup1.Cpuacct, cgroup1.Cpuset, cgroup1.Pids, cgroup1.Blkio}

// Find finds where a cgroup v2 hierarchy is mounted; "" if none can be reached.
// One over which another file system was mounted can't: `ip netns exec` mounts a new
// /sys over the old one (iproute2, lib/namespace.c, netns_switch).
func Find() (string, error) {
	found, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		reached := m.FSType == "cgroup2" && isFileSystem(m.Mountpoint, unix.CGROUP2_SUPER_MAGIC)
		return !reached, reached
	})
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	if len(found) == 0 {
		return "", nil
	}
	return found[0].Mountpoint, nil
}

func isFileSystem(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == magic
}

// mountV2 mounts the cgroup v2 hierarchy in runDir, unless it is mounted there.
func mountV2(runDir string) (string, error) {
	dir := filepath.Join(runDir, "cgroup2")
	return dir, mountHierarchy(dir, "cgroup2", unix.CGROUP2_SUPER_MAGIC, "")
}

func mountHierarchy(dir, fstype string, magic int64, data string) error {
	if isFileSystem(dir, magic) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cgroup mount point: %w", err)
	}
	if err := unix.Mount(fstype, dir, fstype, 0, data); err != nil {
		return fmt.Errorf("mount %s %s: %w", fstype, data, err)
	}
	// Or it would live on in other mount namespaces.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", dir, err)
	}
	return nil
}

// legacyHierarchies lists the cgroup v1 hierarchies that have controllers in which
// limits are set: the controllers of each (cgroups(7), /proc/PID/cgroup).
func legacyHierarchies() ([][]string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var all [][]string
	for line := range strings.Lines(string(b)) {
		field := strings.SplitN(line, ":", 3)
		if len(field) < 3 || field[1] == "" {
			continue
		}
		names := strings.Split(field[1], ",")
		if slices.ContainsFunc(names, func(name string) bool { return slices.Contains(limitControllers, cgroup1.Name(name)) }) {
			all = append(all, names)
		}
	}
	return all, nil
}

// Layout tells, for people, where limits are set on this host: "v2", or "hybrid" if
// in cgroup v1 controllers, beside which v2 is there for the rest.
func Layout() (string, error) {
	legacy, err := legacyHierarchies()
	if err != nil || len(legacy) > 0 {
		return "hybrid", err
	}
	return "v2", nil
}

// legacyRoot is the directory in which each of the hierarchies can be reached by the
// name of each of its controllers: where the host mounts them, or below runDir, where
// they are mounted now.
func legacyRoot(hierarchies [][]string, runDir string) (string, error) {
	const usual = "/sys/fs/cgroup"
	hidden := func(names []string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return slices.Contains(limitControllers, cgroup1.Name(name)) && !isFileSystem(filepath.Join(usual, name), unix.CGROUP_SUPER_MAGIC)
		})
	}
	if !slices.ContainsFunc(hierarchies, hidden) {
		return usual, nil
	}
	root := filepath.Join(runDir, "cgroup1")
	for _, names := range hierarchies {
		all := strings.Join(names, ",")
		// A hierarchy is mounted with all of its controllers or not at all
		// (kernel/cgroup/cgroup-v1.c, cgroup1_root_to_use).
		if err := mountHierarchy(filepath.Join(root, all), "cgroup", unix.CGROUP_SUPER_MAGIC, all); err != nil {
			return "", err
		}
		for _, name := range names {
			if err := os.Symlink(all, filepath.Join(root, name)); err != nil && !errors.Is(err, os.ErrExist) {
				return "", fmt.Errorf("mount cgroup %s: %w", all, err)
			}
		}
	}
	return root, nil
}

// unmountOwn unmounts what Open has mounted in runDir, and no app needs any more.
func unmountOwn(runDir string) error {
	own, err := filepath.Glob(filepath.Join(runDir, "cgroup1", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range append(own, filepath.Join(runDir, "cgroup2")) {
		if st, err := os.Lstat(dir); err == nil && st.IsDir() {
			errs = append(errs, unmount(dir), os.Remove(dir))
		}
	}
	errs = append(errs, os.RemoveAll(filepath.Join(runDir, "cgroup1"))) // links
	return errors.Join(errs...)
}

// subsystems are the controllers in which limits are set, below root.
func subsystems(root string) []cgroup1.Subsystem {
	var found []cgroup1.Subsystem
	for _, s := range []cgroup1.Subsystem{
		cgroup1.NewMemory(root), cgroup1.NewCpu(root), cgroup1.NewCpuacct(root),
		cgroup1.NewCpuset(root), cgroup1.NewPids(root), cgroup1.NewBlkio(root),
	} {
		if isFileSystem(filepath.Join(root, string(s.Name())), unix.CGROUP_SUPER_MAGIC) {
			found = append(found, s)
		}
	}
	return found
}

// unmount detaches what is mounted at dir; nothing there is no error.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
