package tree

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// inode tells files from one another that hard links are names of.
type inode struct{ dev, ino uint64 }

// Maker makes the files of a tree like others: with their modes, owners, times and
// extended attributes, and hard-linked alike.
type Maker struct{ made map[inode]string }

// NewMaker returns a Maker that has made nothing yet. Hard links among all that it makes are kept.
func NewMaker() *Maker { return &Maker{made: make(map[inode]string)} }

// linked makes path another name of the file that was made like st, if there is one.
func (m *Maker) linked(st *unix.Stat_t, path string) (bool, error) {
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

// Make makes what is at from at to. data is where a regular file's bytes are; with
// none it has its size and no bytes. The times of a directory are for SetTimes.
func (m *Maker) Make(from, to string, st *unix.Stat_t, data string) error {
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
	if err := CopyXattrs(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	return SetTimes(to, st)
}

// SetTimes gives what Make has made its times: a directory when it is full.
func SetTimes(to string, st *unix.Stat_t) error {
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
