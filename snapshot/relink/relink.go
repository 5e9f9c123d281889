// Package relink gives files with several names (hard links) back what an overlay takes from
// them: that whoever writes to one name changes what the others show.
package relink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// Files copies files of several names to the upper directory of an overlay that is
// mounted at root, and links the copies: an overlay copies each name on its own when it
// is first written to (Documentation/filesystems/overlayfs.rst, "Hard links"), and they
// would be different files from then on. names are those in question, see
// layer.Store.Linked; what is something else in the overlay is left as it is. No process
// may use the overlay. It needs Linux 5.6 (openat2(2)).
func Files(ctx context.Context, root string, names []string) (err error) {
	if len(names) == 0 {
		return nil
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("link files again: open %s: %w", root, err)
	}
	defer unix.Close(dir) //nolint:errcheck // a handle
	type file struct{ dev, inode uint64 }
	same := make(map[file][]string)
	for _, name := range names {
		fd, err := inside(dir, name, unix.O_PATH)
		if err != nil { // hidden, or below something that is no directory any more
			continue
		}
		var st unix.Stat_t
		err = errors.Join(unix.Fstat(fd, &st), unix.Close(fd))
		if err != nil {
			return fmt.Errorf("link files again: %s: %w", name, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 {
			same[file{st.Dev, st.Ino}] = append(same[file{st.Dev, st.Ino}], name)
		}
	}
	for _, names := range same {
		for i, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if i == 0 {
				err = copyUp(dir, name)
			} else {
				err = link(dir, names[0], name)
			}
			if err != nil {
				return fmt.Errorf("link files again: %s: %w", name, err)
			}
		}
	}
	return nil
}

// inside opens a file of a root, no symbolic link in its path.
func inside(root int, name string, flags uint64) (int, error) {
	return unix.Openat2(root, name, &unix.OpenHow{
		Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// copyUp has an overlay copy a file.
func copyUp(root int, name string) error {
	fd, err := inside(root, name, unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// link makes a name one of another file. Its directory keeps its times.
func link(root int, old, name string) error {
	dir, err := inside(root, path.Dir(name), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir) //nolint:errcheck // a handle
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, path.Base(name), 0); err != nil {
		return err
	}
	from, err := inside(root, old, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(from) //nolint:errcheck // a handle
	if err := unix.Linkat(from, "", dir, path.Base(name), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(dir, ".", []unix.Timespec{st.Atim, st.Mtim}, 0))
}
