package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// emptyDirs are the directories of the host's root that an app gets empty.
var emptyDirs = map[string]os.FileMode{
	"/tmp":     0o777 | os.ModeSticky,
	"/var/tmp": 0o777 | os.ModeSticky,
	"/run":     0o755,
}

// mountRoot mounts the overlay: the app's own writes over the lower root.
//
// With the host's root as the lower one, file systems mounted below it are not
// part of the app's view: an overlay does not descend into mounts.
func (s *Sandbox) mountRoot() error {
	mounted, err := isMountPoint(s.Root())
	if err != nil || mounted {
		return err
	}
	lower := s.Spec.Root.Path
	work := filepath.Join(s.StateDir, "storage", "work")
	for _, dir := range []string{s.Upper(), work, s.Root()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make storage: %w", err)
		}
	}
	if lower == "/" {
		if err := s.hideHostDirs(); err != nil {
			return err
		}
	}
	lowers := append(slices.Clone(s.Layers), lower)
	for _, p := range append([]string{s.Upper(), work}, lowers...) {
		if strings.ContainsAny(p, ",:\\") {
			return fmt.Errorf("mount root: path %q: an overlay can't take ',', ':' or '\\' in a path", p)
		}
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lowers, ":"), s.Upper(), work)
	// mount(2) takes a page of options, with its terminating zero.
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("mount root: %d storage layers are too many: snapshots of clones of snapshots of clones; run the program anew", len(s.Layers))
	}
	if err := unix.Mount("snapctl", s.Root(), "overlay", 0, data); err != nil {
		return fmt.Errorf("mount overlay (%s): %w", data, err)
	}
	return private(s.Root())
}

// Stackable tells whether a directory can be a layer above the lower root: an
// overlay refuses a lower directory inside another one (fs/overlayfs/super.c,
// ovl_check_layer). A view of the host's root that is an overlay itself would not
// do: of a file mapped from an overlay on an overlay the kernel does not tell the
// name that the app knows (/proc/PID/map_files), and CRIU can't save it.
func Stackable(lower, dir string) (bool, error) {
	if rel, err := filepath.Rel(lower, dir); err != nil || strings.HasPrefix(rel, "..") {
		return true, nil //nolint:nilerr // neither is inside the other
	}
	var root, layer unix.Stat_t
	if err := errors.Join(unix.Stat(lower, &root), unix.Stat(dir, &layer)); err != nil {
		return false, fmt.Errorf("compare file systems: %w", err)
	}
	return root.Dev != layer.Dev, nil
}

// hideHostDirs puts empty, opaque directories over those of the host that an
// app must not share: scratch space, and the daemon's own state.
func (s *Sandbox) hideHostDirs() error {
	hide := make(map[string]os.FileMode, len(emptyDirs)+len(s.Hide))
	maps.Copy(hide, emptyDirs)
	for _, dir := range s.Hide {
		hide[dir] = 0o700
	}
	for dir, mode := range hide {
		upper := filepath.Join(s.Upper(), dir)
		if s.written(dir) {
			continue // made before: what the app wrote stays
		}
		if err := os.MkdirAll(upper, 0o755); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
		if err := os.Chmod(upper, mode); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
		// Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
		if err := unix.Setxattr(upper, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

// written tells whether a path is in the app's own files.
func (s *Sandbox) written(path string) bool {
	for _, layer := range append([]string{s.Upper()}, s.Layers...) {
		if _, err := os.Lstat(filepath.Join(layer, path)); err == nil {
			return true
		}
	}
	return false
}

// deviceNodes are the devices every app has; CRIU can save an open descriptor
// of each.
var deviceNodes = map[string]uint32{
	"null":    1<<8 | 3,
	"zero":    1<<8 | 5,
	"full":    1<<8 | 7,
	"random":  1<<8 | 8,
	"urandom": 1<<8 | 9,
	"tty":     5 << 8,
}

// mountDev mounts the app's /dev, a tmpfs that stays while the app is frozen,
// so that CRIU need not save it. /dev/shm is a directory of it: POSIX shared
// memory and semaphores live there.
func (s *Sandbox) mountDev() error {
	dev := s.Dev()
	mounted, err := isMountPoint(dev)
	if err != nil || mounted {
		return err
	}
	if err := os.MkdirAll(dev, 0o755); err != nil {
		return fmt.Errorf("make /dev: %w", err)
	}
	if err := unix.Mount("snapctl", dev, "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME, "mode=755"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	if err := private(dev); err != nil {
		return err
	}
	if err := populateDev(dev); err != nil {
		return errors.Join(fmt.Errorf("fill /dev: %w", err), unmount(dev))
	}
	return nil
}

func populateDev(dev string) error {
	for _, dir := range []string{"shm", "pts", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(dev, "shm"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	for name, number := range deviceNodes {
		path := filepath.Join(dev, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(number)); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o666); err != nil { // the umask took some bits
			return err
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "core": "/proc/kcore",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// private keeps a mount from spreading to other mount namespaces, where it
// would live on after Remove.
func private(path string) error {
	if err := unix.Mount("", path, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", path, err)
	}
	return nil
}

// isMountPoint tells whether something is mounted at path, which may be missing.
func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	// STATX_ATTR_MOUNT_ROOT: Linux 5.8, statx(2).
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
