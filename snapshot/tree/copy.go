package tree

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// Copy copies a directory with everything in it: modes, owners, times,
// extended attributes, links, devices and sockets; file data is shared where
// the file system can (copy_file_range). A missing source gives an empty copy.
func Copy(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if _, err := os.Lstat(from); errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := fs.CopyDir(to, from); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

// CopyExcept copies what is in a directory, but for the entries named in but, and for
// sockets: nobody could use a copy of a socket, and the process that has it bound makes it
// again. A directory that is empty or missing gives an empty copy, or none.
func CopyExcept(ctx context.Context, from, to string, but []string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	skip := make(map[string]bool, len(but))
	for _, name := range but {
		skip[name] = true
	}
	m := NewMaker()
	for _, e := range entries {
		if skip[e.Name()] {
			continue
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		if err := m.other(ctx, filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// other copies a file or a directory with all in it.
func (m *Maker) other(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	if err := m.Make(from, to, &st, from); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	for _, e := range entries {
		if err := m.other(ctx, filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return SetTimes(to, &st)
}
