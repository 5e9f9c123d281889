package snapshot

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"

	"github.com/containerd/continuity/fs"
)

// CopyTree copies a directory with everything in it: modes, owners, times,
// extended attributes, links, devices and sockets; file data is shared where
// the file system can (copy_file_range). A missing source gives an empty copy.
func CopyTree(ctx context.Context, from, to string) error {
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
