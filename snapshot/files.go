package snapshot

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
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

// CopyLayers copies layers of an overlay, the topmost first, into one directory
// that is the same alone above a lower root.
func CopyLayers(ctx context.Context, layers []string, to string) error {
	for _, layer := range slices.Backward(layers) {
		if err := dropHidden(layer, to); err != nil {
			return fmt.Errorf("copy %s: %w", layer, err)
		}
		if err := CopyTree(ctx, layer, to); err != nil {
			return err
		}
	}
	return nil
}

// dropHidden removes from dir what a layer above it would hide: whatever is not a
// directory in both, and what is in a directory that the layer makes opaque
// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
func dropHidden(layer, dir string) error {
	return filepath.WalkDir(layer, func(p string, e iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(layer, p)
		if err != nil || rel == "." {
			return err
		}
		below := filepath.Join(dir, rel)
		info, err := os.Lstat(below)
		if errors.Is(err, iofs.ErrNotExist) {
			if e.IsDir() {
				return iofs.SkipDir
			}
			return nil
		}
		if err != nil {
			return err
		}
		if e.IsDir() && info.IsDir() && !opaque(p) {
			return nil
		}
		if err := os.RemoveAll(below); err != nil {
			return err
		}
		if e.IsDir() {
			return iofs.SkipDir
		}
		return nil
	})
}

func opaque(dir string) bool {
	var value [2]byte
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", value[:])
	return err == nil && n == 1 && value[0] == 'y'
}
