package store

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// Snapshot is a snapshot that is open: nobody removes the memory files, layers and kept files of
// the host that it shares with others, even if somebody removes the snapshot itself. What is its own
// stays only as long as somebody has a [Claim].
type Snapshot struct {
	Name     string
	Dir      snapshot.Dir
	Manifest *snapshot.Manifest // not to be changed

	store   *Store
	removed int // how many snapshots had been removed before
	check   errgroup.Group
}

// Open finds a snapshot, and checks it as deep as is asked. The caller closes it. Returns the
// errors of [Store.Begin] and [Snapshot.Checked].
func (s *Store) Open(ctx context.Context, name string, depth snapshot.Depth) (*Snapshot, error) {
	opened, err := s.Begin(ctx, name, depth)
	if err != nil {
		return nil, err
	}
	if err := opened.Checked(); err != nil {
		opened.Close()
		return nil, err
	}
	return opened, nil
}

// Begin finds a snapshot, whose manifest is checked, and begins to check the rest. Its images may
// not be used before [Snapshot.Checked] has returned nil. What was made of its files is to be
// thrown away if Checked returns an error. The caller closes it. Returns the errors of
// [Store.Find].
func (s *Store) Begin(ctx context.Context, name string, depth snapshot.Depth) (*Snapshot, error) {
	removed := s.countRemoved() // before it is found
	dir, m, err := s.Find(name)
	if err != nil {
		return nil, err
	}
	opened := &Snapshot{Name: name, Dir: dir, Manifest: m, store: s, removed: removed}
	s.opt.Memory.Pin(m.MemoryFiles())
	s.opt.Layers.Pin(m.Layers)
	s.opt.HostFiles.Pin(m.HostFiles)
	opened.check.Go(func() error { return s.check(ctx, dir, m, depth) })
	return opened, nil
}

// check checks all that a snapshot needs.
func (s *Store) check(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest, depth snapshot.Depth) error {
	if err := dir.Check(ctx, m, depth, s.opt.Memory); err != nil {
		return err
	}
	return errors.Join(s.checkLayers(ctx, m, depth), s.checkHostFiles(ctx, m, depth))
}

func (s *Store) checkLayers(ctx context.Context, m *snapshot.Manifest, depth snapshot.Depth) error {
	for _, l := range m.Layers {
		if err := s.opt.Layers.Check(ctx, l, depth); err != nil {
			return err
		}
	}
	return nil
}

// checkHostFiles checks the kept files of the host, if every byte is checked. Otherwise those
// that are needed are checked when they are opened.
func (s *Store) checkHostFiles(ctx context.Context, m *snapshot.Manifest, depth snapshot.Depth) error {
	if depth != snapshot.ByDigest {
		return nil
	}
	for i := range m.HostFiles {
		if err := s.opt.HostFiles.Check(ctx, &m.HostFiles[i], depth); err != nil {
			return fmt.Errorf("%w: %w", tree.ErrDamaged, err)
		}
	}
	return nil
}

// Checked waits for the check of the snapshot. It may be called by several at the same time.
// Returns an error wrapping [tree.ErrDamaged] or [snapshot.ErrInvalid] that names what is
// damaged.
func (o *Snapshot) Checked() error {
	if err := o.check.Wait(); err != nil {
		return fmt.Errorf("snapshot %s: %w", o.Name, err)
	}
	return nil
}

// Close lets go of what the snapshot needs.
func (o *Snapshot) Close() {
	_ = o.check.Wait() // whoever used it has asked
	o.store.opt.Memory.Unpin(o.Manifest.MemoryFiles())
	o.store.opt.Layers.Unpin(o.Manifest.Layers)
	o.store.opt.HostFiles.Unpin(o.Manifest.HostFiles)
	// If the snapshot was removed while we used it, its memory files and layers were spared,
	// because they were pinned. Nobody else will remove them: sweep now.
	if o.store.countRemoved() != o.removed {
		o.store.opt.Freed()
	}
}
