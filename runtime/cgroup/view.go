package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// cgroupView is where programs look for the limits that they run under.
const cgroupView = "/sys/fs/cgroup"

// View is one mount by which an app sees its own cgroup, read-only.
type View struct {
	Key    string // its name in CRIU's images
	Path   string // inside the app
	Source string // on the host
}

// Views lists the mounts by which an app sees its own cgroup, parents first: with limits
// in cgroup v2 its directory there, else a directory with its directories of the
// v1 controllers. That is where programs look, and what they find in every container.
//
// They are bind mounts of the host's, and not mounts that CRIU makes again: a copy then
// has its own cgroup's, and they need no cgroup namespace.
func (g *Group) Views() []View {
	c := g.parent
	if c.unified {
		return []View{{Key: "cgroup", Path: cgroupView, Source: g.Path()}}
	}
	list := []View{{Key: "cgroup", Path: cgroupView, Source: c.viewDir()}}
	for _, name := range c.legacyNames() {
		list = append(list, View{Key: "cgroup-" + name, Path: filepath.Join(cgroupView, name), Source: filepath.Join(c.legacy, name, g.name)})
	}
	return list
}

// ViewSources has a source for each mount by which an app may see a cgroup: one that
// was saved on a host with other hierarchies finds an empty directory.
func (g *Group) ViewSources() map[string]string {
	c := g.parent
	sources := map[string]string{cgroupView: c.viewDir(), filepath.Join(cgroupView, "cpu,cpuacct"): c.emptyView()}
	for _, name := range limitControllers {
		sources[filepath.Join(cgroupView, string(name))] = c.emptyView()
	}
	for _, v := range g.Views() {
		sources[v.Path] = v.Source
	}
	return sources
}

func (c *Tree) viewDir() string   { return filepath.Join(c.runDir, "cgroup") }
func (c *Tree) emptyView() string { return filepath.Join(c.runDir, "no-cgroup") }

// makeViews makes, in the daemon's run directory, the directory that every app has at
// /sys/fs/cgroup where its limits are in cgroup v1: mount points, and a link for each
// controller that shares a hierarchy. Apps mount it read-only, so all have the same one.
func (c *Tree) makeViews() error {
	names := c.legacyNames()
	dirs := []string{c.viewDir(), c.emptyView()}
	for _, name := range names {
		dirs = append(dirs, filepath.Join(c.viewDir(), name))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup mount point: %w", err)
		}
	}
	for _, sub := range c.v1() {
		name := string(sub.Name())
		if slices.Contains(names, name) {
			continue
		}
		err := os.Symlink(c.hierarchyOf(name), filepath.Join(c.viewDir(), name))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make cgroup mount point: %w", err)
		}
	}
	return nil
}

// removeViews removes what makeViews made. Of mounts of apps nothing is seen there.
func (c *Tree) removeViews() error {
	return errors.Join(os.RemoveAll(c.viewDir()), os.RemoveAll(c.emptyView()))
}

// legacyNames are the names of the directories of the v1 hierarchies with limits:
// "memory", and "cpu,cpuacct" for two controllers that share one.
func (c *Tree) legacyNames() []string {
	if c.unified {
		return nil
	}
	var names []string
	for _, s := range c.v1() {
		if name := c.hierarchyOf(string(s.Name())); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// hierarchyOf is the name of the directory that the link of a controller leads to.
func (c *Tree) hierarchyOf(controller string) string {
	target, err := os.Readlink(filepath.Join(c.legacy, controller))
	if err != nil {
		return controller // a directory
	}
	return filepath.Base(target)
}

// MountViews mounts the views of an app's cgroup below its root.
func MountViews(root string, views []View) error {
	const hardened = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	for _, v := range views {
		target := filepath.Join(root, v.Path)
		if err := unix.Mount(v.Source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", v.Path, err)
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, target, 0, &unix.MountAttr{Attr_set: hardened}); err != nil { // Linux 5.12
			return fmt.Errorf("make %s read-only: %w", v.Path, err)
		}
	}
	return nil
}
