package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// syncers is how many files are synced at the same time.
const syncers = 8

// Sync brings every file and directory of a tree to the disk.
//
// A file system with a journal commits it for each fsync, unless there is nothing in
// it that the last commit did not have. So all files get their place on the disk
// first, and the first fsyncs commit what the others would.
func Sync(ctx context.Context, dir string) error {
	err := walkSynced(ctx, dir, func(path string, d fs.DirEntry) error {
		if d.IsDir() {
			return nil
		}
		return startWriting(path)
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(syncers)
	err = walkSynced(ctx, dir, func(path string, _ fs.DirEntry) error {
		g.Go(func() error { return syncPath(path) })
		return nil
	})
	if gerr := g.Wait(); gerr != nil {
		return gerr // the walk was ended by it
	}
	return err
}

// walkSynced calls do for each file and directory that can be synced.
func walkSynced(ctx context.Context, dir string, do func(path string, d fs.DirEntry) error) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.IsDir() || d.Type().IsRegular() {
			return do(p, d)
		}
		return nil
	})
}

// startWriting begins to write a file to the disk, and does not wait for it. It has
// its blocks then (fs/ext4/inode.c, ext4_writepages). What can't be done syncPath
// finds out.
func startWriting(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	return f.Close()
}

// SyncPaths brings single files and directories to the disk: of a directory its entries alone.
func SyncPaths(paths ...string) error {
	for _, path := range paths { // as in Sync
		if err := startWriting(path); err != nil {
			return err
		}
	}
	for _, path := range paths {
		if err := syncPath(path); err != nil {
			return err
		}
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
