package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// mountRoot mounts the app's root: the given directory, or an overlay, which is the app's
// own writes over the lower root, with the storage layers between.
//
// With the host's root as the lower one, file systems mounted below it are not
// part of the app's view: an overlay does not descend into mounts.
func (s *Sandbox) mountRoot(ctx context.Context) error {
	mounted, err := isMountPoint(s.Root())
	if err != nil || mounted {
		return err
	}
	if s.Rootfs != "" {
		return s.bindRoot()
	}
	o := overlay{upper: s.Upper(), work: s.overlayWork()}
	if s.Layers != nil {
		if o.lowers, err = s.Layers(ctx); err != nil {
			return err
		}
		// An app that was made of layers, and what is made of it, may have files
		// of which only the metadata is its own.
		o.metacopy = len(o.lowers) > 0
	}
	if err := s.makeUpper(o.lowers); err != nil {
		return err
	}
	for _, dir := range []string{o.work, s.Root()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make storage: %w", err)
		}
	}
	if s.Spec.Root.Path == "/" {
		if err := s.hideHostDirs(o.lowers); err != nil {
			return err
		}
	}
	o.lowers = append(o.lowers, s.Spec.Root.Path)
	return o.at(s.Root())
}

// bindRoot mounts the given root directory, since pivot_root(2) wants a mount point, here
// and when CRIU restores (criu/mount.c, cr_pivot_root).
func (s *Sandbox) bindRoot() error {
	if err := os.MkdirAll(s.Root(), 0o755); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	if err := unix.Mount(s.Rootfs, s.Root(), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount root %s: %w", s.Rootfs, err)
	}
	return private(s.Root())
}

// makeUpper makes the directory of the app's writes, like the one below it: its
// owner and mode are those of the app's root.
func (s *Sandbox) makeUpper(layers []string) error {
	err := os.MkdirAll(filepath.Dir(s.Upper()), 0o755)
	if err == nil {
		err = os.Mkdir(s.Upper(), 0o755)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err == nil && len(layers) > 0 {
		var st unix.Stat_t
		if err = unix.Stat(layers[0], &st); err == nil {
			err = errors.Join(os.Chown(s.Upper(), int(st.Uid), int(st.Gid)), unix.Chmod(s.Upper(), st.Mode&0o7777))
		}
	}
	if err != nil {
		return fmt.Errorf("make storage: %w", err)
	}
	return nil
}

func (s *Sandbox) overlayWork() string { return filepath.Join(s.StateDir, "storage", "work") }

// UnmountRoot unmounts the app's root, which must not be in use: it returns an error
// wrapping unix.EBUSY otherwise. Nothing mounted is no error.
func (s *Sandbox) UnmountRoot() error {
	err := unix.Unmount(s.Root(), unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount root of %s: %w", s.Name, err)
	}
	return nil
}

// Stackable tells whether the app's root can have so many layers as directories.
func (s *Sandbox) Stackable(layers []string) bool {
	_, err := overlay{lowers: append(layers, s.Spec.Root.Path), upper: s.Upper(), work: s.overlayWork(), metacopy: true}.options()
	return err == nil
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

// devDirs and devLinks are what else is in every app's /dev.
var (
	devDirs  = []string{"shm", "pts", "mqueue"}
	devLinks = map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "core": "/proc/kcore",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	}
)

// DevNames names what is in the /dev of a new app.
func DevNames() []string {
	return slices.Concat(devDirs, slices.Sorted(maps.Keys(devLinks)), slices.Sorted(maps.Keys(deviceNodes)))
}

func populateDev(dev string) error {
	for _, dir := range devDirs {
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
	for name, target := range devLinks {
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
