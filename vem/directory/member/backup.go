package member

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// ErrDigest is a backup that is not what was written.
var ErrDigest = errors.New("the backup is damaged")

// Backup is a saved directory.
type Backup struct {
	Bytes  int64
	SHA256 string // of the content
}

// Backup saves the directory as a member knows it, which needs no leader and no other member.
// The file is etcd's snapshot format, which etcdutl reads: a database, and its SHA-256. It is
// written aside, read again and compared, and then renamed to path. Returns an error wrapping
// os.ErrExist, and changes nothing, if there is a file at path.
func (c *Cluster) Backup(ctx context.Context, path string) (Backup, error) {
	var b Backup
	// It is looked for again when the file is renamed: this is for an answer before the work.
	if _, err := os.Lstat(path); err == nil {
		return b, fmt.Errorf("back up directory: %w", &os.PathError{Op: "create", Path: path, Err: os.ErrExist})
	}
	r, err := c.client.SnapshotWithVersion(ctx)
	if err != nil {
		return b, fmt.Errorf("back up directory: %w", err)
	}
	err = placeFile(path, unix.RENAME_NOREPLACE, func(w io.Writer) error {
		if _, err := io.Copy(w, r.Snapshot); err != nil {
			return err
		}
		b, err = Verify(path + ".part")
		return err
	})
	if err := errors.Join(err, r.Snapshot.Close()); err != nil {
		return Backup{}, fmt.Errorf("back up directory: %w", err)
	}
	return b, nil
}

// Verify reads a backup and compares it with its digest. An error wraps [ErrDigest] if it is not
// what [Cluster.Backup] wrote.
func Verify(path string) (Backup, error) {
	var b Backup
	f, err := os.Open(path)
	if err != nil {
		return b, err
	}
	defer f.Close() //nolint:errcheck // only read from
	st, err := f.Stat()
	if err != nil {
		return b, err
	}
	// A database is a whole number of pages, of 4096 bytes or more.
	content := st.Size() - sha256.Size
	if content <= 0 || content%512 != 0 {
		return b, fmt.Errorf("%w: %s has no digest at its end", ErrDigest, path)
	}
	h, want := sha256.New(), make([]byte, sha256.Size)
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, content)); err != nil {
		return b, err
	}
	if _, err := f.ReadAt(want, content); err != nil {
		return b, err
	}
	got := h.Sum(nil)
	if !bytes.Equal(got, want) {
		return b, fmt.Errorf("%w: %s has not the content that its digest is of", ErrDigest, path)
	}
	return Backup{Bytes: st.Size(), SHA256: hex.EncodeToString(got)}, nil
}

// Restore puts a backup in the place of the member's data, as that of a new cluster of this member
// alone; others join it. The member must be stopped, here and on all other hosts: theirs is the
// old cluster. What was there is renamed to data.replaced-TIME, never deleted.
//
// The revision of the restored directory is far above any that the old one can have had. Else it
// would give out numbers a second time: a host that remembers an entry's revision could change an
// entry that is not the one it read, and a watch would wait in silence for revisions that have
// been. All revisions before are marked as forgotten, so watches get [directory.ErrCompacted] and
// read all again. What the old directory was told after the backup is lost: hosts have to compare
// the epochs they know.
//
// If this process dies meanwhile the data is the old or the new, whole, and it can be done again.
func (m *Member) Restore(ctx context.Context, path string) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	if _, err := Verify(path); err != nil {
		return fmt.Errorf("restore directory: %w", err)
	}
	m.mu.Lock()
	kept := m.stop != nil
	m.mu.Unlock()
	p, err := find(m.conf)
	if err != nil {
		return fmt.Errorf("restore directory: %w", err)
	}
	if p != nil {
		p.close()
	}
	if kept || p != nil {
		return fmt.Errorf("restore directory: %w: stop it first", ErrRunning)
	}
	if err := os.MkdirAll(m.conf.Dir, 0o700); err != nil {
		return fmt.Errorf("restore directory: %w", err)
	}
	if err := writeJSON(m.conf.configPath(), m.conf); err != nil {
		return fmt.Errorf("restore directory: %w", err)
	}
	out, err := exec.CommandContext(ctx, m.program(), "restore", m.conf.configPath(), path).CombinedOutput()
	if err != nil {
		reason, said := explain(out)
		return fmt.Errorf("restore directory: %w: %s: %s", err, reason, said)
	}
	return nil
}

// Retire sets the data of a member aside that is of its cluster no more, as data.replaced-TIME, and
// removes its configuration. The member must be stopped.
//
// If this process dies meanwhile it can be done again.
func Retire(c Config) error {
	claim, err := Take(c)
	if err != nil {
		return fmt.Errorf("retire member of the directory: %w", err)
	}
	err = claim.Forget()
	for _, dir := range []string{c.DataDir(), c.ReadyDir()} {
		if err == nil {
			err = SetAside(c, dir)
		}
	}
	if err == nil {
		err = os.Remove(c.configPath())
	}
	if err = errors.Join(err, claim.Release()); err != nil {
		return fmt.Errorf("retire member of the directory: %w", err)
	}
	return syncDir(c.Dir)
}

// SetAside renames data that is not in its place, if there is any, to data.replaced-TIME.
func SetAside(c Config, dir string) error {
	err := os.Rename(dir, c.DataDir()+".replaced-"+time.Now().UTC().Format("20060102T150405.000Z"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// RevisionBump is how many revisions a restored directory skips: more than any goes through between two backups.
const RevisionBump = 1_000_000_000
