package directorycli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// restorationFile, in the data of a member, says that the data was restored, and the directory does not
// say so yet.
const restorationFile = "restored.json"

// enterTime is how long a member of a cluster of its own may take until it writes.
const enterTime = time.Minute

// leaveRestoration has the first start of a member on restored data say so in the directory.
func leaveRestoration(c member.Config, dir string) error {
	if c.Installation() == "" {
		return nil
	}
	b, err := json.Marshal(directory.Restoration{ID: rand.Text(), At: time.Now().UTC().Truncate(time.Second), By: c.Name})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, restorationFile), b, 0o600)
}

// enterRestoration says in the directory that it was restored, before any host is let in: hosts go by
// that when they find that something is missing. The member is the only one of its cluster then. It can
// be done again.
func enterRestoration(ctx context.Context, c member.Config, e *embed.Etcd, log *slog.Logger) error {
	path := filepath.Join(c.DataDir(), restorationFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var r directory.Restoration
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	var put directory.Put
	if err == nil {
		put, err = r.Put(c.Installation())
	}
	if err != nil {
		return fmt.Errorf("read that the data was restored: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, enterTime)
	defer cancel()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return err
	case <-e.Server.StopNotify():
		return errors.New("etcd stopped before it served")
	case <-ctx.Done():
		return fmt.Errorf("write that the data was restored: %w", ctx.Err())
	}
	client := v3client.New(e.Server)
	defer client.Close() //nolint:errcheck // what was written is in the answer
	if _, err := client.Put(ctx, member.StorePrefix+put.Key, string(put.Value)); err != nil {
		return fmt.Errorf("write that the data was restored: %w", err)
	}
	log.InfoContext(ctx, "the directory was restored", slog.String("id", r.ID))
	return os.Remove(path)
}
