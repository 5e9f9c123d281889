package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// countLinks notes in a layer's list the regular files that have other names, too. It
// returns whether there are any, and the size of all, each counted once.
func countLinks(tree string, files []File) (linked bool, size int64, err error) {
	counted := make(map[uint64]bool) // inodes; a layer is in one file system
	for i := range files {
		f := &files[i]
		if f.Type != "file" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(tree, f.Path), &st); err != nil {
			return false, 0, fmt.Errorf("count links: %w", err)
		}
		if st.Nlink > 1 {
			f.Links, linked = int(st.Nlink), true
		}
		if !f.MetadataOnly && !counted[st.Ino] {
			size += st.Size
		}
		counted[st.Ino] = true
	}
	return linked, size, nil
}

// Linked lists the regular files of layers that have several names, by all of these.
func (l *Layers) Linked(layers []Layer) ([]string, error) {
	var names []string
	for _, layer := range layers {
		if !layer.Linked {
			continue
		}
		list, err := readRegular(filepath.Join(l.dir.Path(string(layer.ID)), layerList))
		if err != nil {
			return nil, fmt.Errorf("list storage layer: %w", err)
		}
		var files []File
		if err := json.Unmarshal(list, &files); err != nil {
			return nil, fmt.Errorf("list storage layer %s: %w", layer.ID, err)
		}
		for _, f := range files {
			if f.Links > 1 {
				names = append(names, f.Path)
			}
		}
	}
	slices.Sort(names) // an app has its own copies of those in the layers below
	return slices.Compact(names), nil
}

// Relink copies files of several names to the upper directory of an overlay that is
// mounted at root, and links the copies: an overlay copies each name on its own when it
// is first written to (Documentation/filesystems/overlayfs.rst, "Hard links"), and they
// would be different files from then on. names are those in question, see
// [Layers.Linked]; what is something else in the overlay is left as it is. No process
// may use the overlay. It needs Linux 5.6 (openat2(2)).
func Relink(ctx context.Context, root string, names []string) (err error) {
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
				err = relink(dir, names[0], name)
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

// relink makes a name one of another file. Its directory keeps its times.
func relink(root int, old, name string) error {
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
