package layer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/tree"
)

// CopyUpper copies what an app wrote to its root, as its overlay marks it, for a
// layer. Of files that have no data of their own none is made.
func CopyUpper(ctx context.Context, from, to string) error {
	m := tree.NewMaker()
	var copyDir func(from, to string, st *unix.Stat_t) error
	copyOne := func(from, to string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(from, &st); err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		marks, err := tree.ReadMarks(from)
		if err != nil {
			return err
		}
		data := from
		if marks.MetadataOnly {
			data = ""
		}
		if err := m.Make(from, to, &st, data); err != nil {
			return err
		}
		if err := marks.Set(to); err != nil {
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
		return tree.SetTimes(to, st)
	}
	return copyOne(from, to)
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
