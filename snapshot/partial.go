package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// partialPrefix is the prefix of directories that are being written. A directory with this
// prefix that no operation writes is left over from a crash: see [Sweep].
const partialPrefix = ".partial-"

// ErrExists is a snapshot whose name is taken.
var ErrExists = errors.New("snapshot exists already")

// Partial is a snapshot that is being written. It becomes a snapshot by
// Commit; Discard, which is idempotent and does nothing after Commit, drops it.
type Partial struct {
	dir, target string
	done        bool
	volatile    bool
}

// Volatile has Commit bring nothing to the disk: what is saved need not outlive the host's boot.
func (p *Partial) Volatile() { p.volatile = true }

// Begin makes the directory for a snapshot that is to be at target.
func Begin(target string) (*Partial, error) {
	if _, err := os.Lstat(target); err == nil {
		return nil, fmt.Errorf("%w: %s", ErrExists, filepath.Base(target))
	}
	dir, err := MakeBeside(target, filepath.Base(target))
	if err != nil {
		return nil, err
	}
	p := &Partial{dir: dir, target: target}
	if err := os.Mkdir(p.Dir().Images(), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make images directory: %w", err), p.Discard())
	}
	return p, nil
}

// MakeBeside makes a directory beside a snapshot that is going to be at target, for what is needed while it
// is made. The caller removes it; after a crash Sweep does.
func MakeBeside(target, what string) (dir string, err error) {
	parent := filepath.Dir(target)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", fmt.Errorf("make snapshot directory: %w", err)
	}
	if dir, err = os.MkdirTemp(parent, partialPrefix+what+"-"); err != nil {
		return "", fmt.Errorf("make snapshot directory: %w", err)
	}
	return dir, nil
}

// Dir is where the files go.
func (p *Partial) Dir() Dir { return Dir(p.dir) }

// Commit hashes all files, writes the manifest, brings everything to the disk
// and gives the snapshot its name. One that passes does not outlive the daemon, and is volatile. If it fails nothing
// has its name. What memory files the manifest names are on the disk already, unless it is volatile: see
// [memory.Store.Sync].
func (p *Partial) Commit(ctx context.Context, m *Manifest) (Dir, error) {
	volatile := p.volatile || m.Passing
	// The files are read and brought to the disk at the same time; the manifest, which
	// is made of what was read, follows them.
	g, gctx := errgroup.WithContext(ctx)
	if !volatile {
		g.Go(func() error { return tree.Sync(gctx, p.dir) })
	}
	g.Go(func() (err error) {
		m.Files, err = tree.Describe(gctx, p.dir, ownFiles...)
		return err
	})
	if err := g.Wait(); err != nil {
		return "", err
	}
	if err := writeManifest(p.dir, m); err != nil {
		return "", err
	}
	toDisk := tree.SyncPaths
	if volatile {
		toDisk = func(...string) error { return nil }
	}
	written := []string{filepath.Join(p.dir, manifestFile), filepath.Join(p.dir, digestFile)}
	if err := toDisk(append(written, p.dir)...); err != nil {
		return "", err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, p.dir, unix.AT_FDCWD, p.target, unix.RENAME_NOREPLACE); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("%w: %s", ErrExists, filepath.Base(p.target))
		}
		return "", fmt.Errorf("commit snapshot: %w", err)
	}
	p.done = true
	return Dir(p.target), toDisk(filepath.Dir(p.target))
}

// commit is Commit for a snapshot that may name memory files that are not on the disk yet.
func (p *Partial) commit(ctx context.Context, m *Manifest, store *memory.Store) (Dir, error) {
	if !p.volatile && !m.Passing {
		if err := store.Sync(ctx, m.MemoryFiles()); err != nil {
			return "", err
		}
	}
	return p.Commit(ctx, m)
}

// CommitForeign commits a snapshot that comes from another host, when all files of its directory are
// there but the links to memory files. It compares them with m, which is as the other host had it but
// for what the stores of this host say of memory files, layers and kept files. Returns an error wrapping
// [tree.ErrDamaged] if they are others.
func (p *Partial) CommitForeign(ctx context.Context, m *Manifest, store *memory.Store) (Dir, error) {
	files := m.OwnFiles()
	for i := range files {
		files[i].Stamp = foreignStamp
	}
	if err := tree.Check(ctx, p.dir, files, ByDigest); err != nil {
		return "", err
	}
	if err := p.Dir().linkMemory(m, store); err != nil {
		return "", err
	}
	return p.commit(ctx, m, store)
}

// foreignStamp is the stamp of no file of this host.
const foreignStamp = "foreign"

// Discard removes the files, unless they were committed.
func (p *Partial) Discard() error {
	if p.done {
		return nil
	}
	p.done = true
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("discard snapshot: %w", err)
	}
	return nil
}

// Sweep removes what an interrupted Begin, Drop or Remove left in parent. No operation
// may be going on there.
func Sweep(parent string) error { return sweep(parent, partialPrefix) }

func sweep(parent, prefix string) error {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep partial snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(parent, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// dropped is the prefix of a removed snapshot's directory: Drop renames it to this prefix
// and a random suffix, and the caller, or Sweep after a crash, deletes it.
func (d Dir) dropped() string { return partialPrefix + "removed-" + filepath.Base(string(d)) + "-" }

// Drop takes a snapshot's name away, so that the name is free at once. It returns the
// directory in which the snapshot's files still are. The caller removes that directory; after
// a crash Sweep does. A missing snapshot is no error.
func (d Dir) Drop() (left string, err error) {
	left = filepath.Join(filepath.Dir(string(d)), d.dropped()+rand.Text())
	if err := os.Rename(string(d), left); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("remove snapshot: %w", err)
	}
	return left, nil
}

// Remove deletes a snapshot, and what an earlier Drop or Remove of it has left.
func (d Dir) Remove() error {
	if _, err := d.Drop(); err != nil {
		return err
	}
	if err := sweep(filepath.Dir(string(d)), d.dropped()); err != nil {
		return fmt.Errorf("remove snapshot: %w", err)
	}
	return nil
}
