package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrBound says that a path already keeps another network namespace.
var ErrBound = errors.New("another network namespace is bound there")

// Bind keeps the namespace alive as a bind mount on path, a new empty file with
// mode 0600, so that it outlives the process. It does nothing if n is bound
// there already, uses an empty file that an earlier, interrupted Bind left, and
// returns an error wrapping [ErrBound] if path keeps another namespace. If it
// fails, path is as before, or an empty file.
//
// The folder's mount should be private: on a shared one the kernel copies the
// bind mount into every mount namespace of the peer group.
func (n *NS) Bind(path string) error {
	if err := n.bind(path); err != nil {
		return fmt.Errorf("bind network namespace to %s: %w", path, err)
	}
	return nil
}

func (n *NS) bind(path string) error {
	src, err := n.Dup()
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // a handle
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only looked at
	switch have, err := inode(int(f.Fd())); {
	case err == nil && have == n.inode:
		return nil
	case err == nil:
		return ErrBound
	case !errors.Is(err, ErrNotNetNS):
		return err
	}
	if st, err := f.Stat(); err != nil {
		return err
	} else if !st.Mode().IsRegular() || st.Size() != 0 {
		return errors.New("the file is neither empty nor a namespace")
	}
	fd := fmt.Sprintf("/proc/thread-self/fd/%d", src.File().Fd())
	return unix.Mount(fd, path, "", unix.MS_BIND, "")
}

// Unbind undoes [NS.Bind]: it detaches what is mounted on path and removes the
// file. The namespace lives on while others have it. It does nothing if path does
// not exist, and leaves a file alone that Bind cannot have made.
func Unbind(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if errors.Is(err, unix.EINVAL) { // no (further) mount there: umount(2)
			break
		}
		if err != nil {
			return fmt.Errorf("unbind network namespace from %s: %w", path, err)
		}
	}
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unbind network namespace: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() != 0 {
		return fmt.Errorf("unbind network namespace from %s: the file is not an empty one", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unbind network namespace: %w", err)
	}
	return nil
}
