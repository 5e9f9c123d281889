package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// inode tells files from one another that hard links are names of.
type inode struct{ dev, ino uint64 }

// maker makes the files of a tree like others: with their modes, owners, times and
// extended attributes, and hard-linked alike.
type maker struct{ made map[inode]string }

func newMaker() *maker { return &maker{made: make(map[inode]string)} }

// linked makes path another name of the file that was made like st, if there is one.
func (m *maker) linked(st *unix.Stat_t, path string) (bool, error) {
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false, nil
	}
	key := inode{st.Dev, st.Ino}
	first, ok := m.made[key]
	if !ok {
		m.made[key] = path
		return false, nil
	}
	if err := os.Link(first, path); err != nil {
		return false, fmt.Errorf("copy: %w", err)
	}
	return true, nil
}

// node makes what is at from at to. data is where a regular file's bytes are; with
// none it has its size and no bytes. The times of a directory are for setTimes.
func (m *maker) node(from, to string, st *unix.Stat_t, data string) error {
	if linked, err := m.linked(st, to); err != nil || linked {
		return err
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err = os.Mkdir(to, 0o700); errors.Is(err, os.ErrExist) {
			err = nil // the root of the tree
		}
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	case unix.S_IFREG:
		err = file(to, data, st.Size)
	default:
		err = unix.Mknod(to, st.Mode, int(st.Rdev)) //nolint:gosec // as it was read
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	// In this order: a change of owner takes set-id bits and capabilities away.
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return fmt.Errorf("copy %s: mode: %w", from, err)
		}
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	return setTimes(to, st)
}

// setTimes gives what node has made its times: a directory when it is full.
func setTimes(to string, st *unix.Stat_t) error {
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("copy: times of %s: %w", to, err)
	}
	return nil
}

func file(to, data string, size int64) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if data == "" {
		return errors.Join(f.Truncate(size), f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return fs.CopyFile(to, data)
}

// whiteout hides what layers below have at a path.
func whiteout(path string) error {
	if err := unix.Mknod(path, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// CopyUpper copies what an app wrote to its root, as its overlay marks it, for a
// layer. Of files that have no data of their own none is made.
func CopyUpper(ctx context.Context, from, to string) error {
	m := newMaker()
	var copyDir func(from, to string, st *unix.Stat_t) error
	copyOne := func(from, to string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(from, &st); err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		marks, err := marksOf(from)
		if err != nil {
			return err
		}
		data := from
		if marks.MetadataOnly {
			data = ""
		}
		if err := m.node(from, to, &st, data); err != nil {
			return err
		}
		if err := marks.set(to); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return copyDir(from, to, &st)
		}
		return nil
	}
	copyDir = func(from, to string, st *unix.Stat_t) error {
		entries, err := os.ReadDir(from)
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		for _, e := range entries {
			if err := copyOne(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
		return setTimes(to, st)
	}
	return copyOne(from, to)
}
