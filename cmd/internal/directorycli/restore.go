package directorycli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/directory/member"
)

// restore makes the member's data from a backup, aside, and then exchanges both in one step. If
// the process dies:
//
//	data.building is there   nothing was changed; the next restore removes it
//	data.ready is there      it is the new data, or after the exchange the old one: kept
func restore(ctx context.Context, c member.Config, claim *member.Claim, backup string, log *slog.Logger) error {
	log.InfoContext(ctx, "restore directory", slog.String("backup", backup), slog.String("dir", c.Dir))
	building, ready := c.DataDir()+".building", c.ReadyDir()
	if err := errors.Join(os.RemoveAll(building), setAside(c, ready)); err != nil {
		return fmt.Errorf("prepare restore: %w", err)
	}
	if err := build(c, backup, building); err != nil {
		return errors.Join(fmt.Errorf("restore backup %s: %w", backup, err), os.RemoveAll(building))
	}
	if err := sync(building); err != nil {
		return fmt.Errorf("write restored data: %w", err)
	}
	if err := os.Rename(building, ready); err != nil {
		return err
	}
	if err := claim.Forget(); err != nil {
		return err
	}
	if err := exchange(ready, c.DataDir()); err != nil {
		return fmt.Errorf("put restored data in place: %w", err)
	}
	return errors.Join(setAside(c, ready), fsync(c.Dir))
}

// build writes the data of a new cluster, with a token of its own, so that no member of the old
// one takes part in it by mistake.
func build(c member.Config, backup, dir string) error {
	wal.SegmentSizeBytes = c.LogFileBytes
	return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath:        backup,
		Name:                c.Name,
		OutputDataDir:       dir,
		PeerURLs:            c.AdvertisePeer,
		InitialCluster:      cluster([]member.Peer{{Name: c.Name, URLs: c.AdvertisePeer}}),
		InitialClusterToken: c.Token + "-" + rand.Text(),
		RevisionBump:        member.RevisionBump,
		MarkCompacted:       true,
	})
}

// setAside renames data that is not in its place, if there is any.
func setAside(c member.Config, dir string) error {
	err := os.Rename(dir, c.DataDir()+".replaced-"+time.Now().UTC().Format("20060102T150405.000Z"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// exchange swaps two folders in one step (renameat2(2), Linux 3.15). If there is no second one it
// renames the first. Between the two, a member is not started without data (member.Claim.Check).
func exchange(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		return os.Rename(from, to)
	}
	return err
}

// sync makes all of a folder last.
func sync(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return fsync(path)
	})
}

func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
