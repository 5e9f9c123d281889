package hostfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenFile opens the copy of a file by a mount of its own, which is attached nowhere. The
// kernel shows the file at the path that its app knows it by, also after it was opened or
// mapped again by /proc/self/fd (fs/d_path.c, prepend_path, ends at the root of a mount that
// is attached nowhere). The mount lasts as long as a process has the file. The file can be
// executed even if the store's own mount is noexec. The caller closes the file.
//
// It needs CAP_SYS_ADMIN, and Linux 5.12 (mount_setattr).
func (s *Store) OpenFile(f *File) (_ *os.File, err error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, f.Path, err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, s.dir.Path(string(f.ID)), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(tree) //nolint:errcheck // the file keeps its mount
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Attr_clr: unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return nil, fmt.Errorf("mount kept file %s: %w", f.Path, err)
	}
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(tree, f.Path, how)
	if err != nil {
		return fail(err)
	}
	file := os.NewFile(uintptr(fd), f.Path)
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		_, err = fail(errors.Join(errors.New("its copy is no regular file"), err))
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
