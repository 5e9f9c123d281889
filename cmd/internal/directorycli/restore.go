package directorycli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

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
	if err := errors.Join(os.RemoveAll(building), member.SetAside(c, ready)); err != nil {
		return fmt.Errorf("prepare restore: %w", err)
	}
	if err := build(c, backup, building); err != nil {
		return errors.Join(fmt.Errorf("restore backup %s: %w", backup, err), os.RemoveAll(building))
	}
	if err := errors.Join(belongs(c, building), leaveRestoration(c, building)); err != nil {
		return errors.Join(fmt.Errorf("restore backup %s: %w", backup, err), os.RemoveAll(building))
	}
	if err := syncAll(building); err != nil {
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
	return errors.Join(member.SetAside(c, ready), fsync(c.Dir))
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

// belongs returns an error if restored data is not that of the member's installation.
func belongs(c member.Config, dir string) error {
	if c.Installation() == "" {
		return nil
	}
	db, err := bbolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	found, want := false, []byte(member.Keys(c.Installation()))
	err = db.View(func(tx *bbolt.Tx) error {
		entries := tx.Bucket([]byte("key")) // etcd's storage/schema/bucket.go
		if entries == nil {
			return nil
		}
		return entries.ForEach(func(_, v []byte) error {
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(v, &kv); err != nil {
				return err
			}
			found = found || bytes.HasPrefix(kv.GetKey(), want)
			return nil
		})
	})
	if err = errors.Join(err, db.Close()); err == nil && !found {
		err = fmt.Errorf("it has nothing of installation %s: it is of another one", c.Installation())
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

// syncAll makes all of a folder last.
func syncAll(dir string) error {
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
