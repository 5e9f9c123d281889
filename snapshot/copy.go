package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// CopyOptions says what [Dir.Copy] makes of a saved app.
type CopyOptions struct {
	Target string // the directory that the copy becomes
	Store  *memory.Store
	Layers *layer.Store
	// Change makes the manifest that of the copy.
	Change func(m *Manifest)
	// Volatile is as in [Partial.Volatile].
	Volatile bool
	// CopyFiles adds the app's files, if the manifest says that it has them.
	CopyFiles func(ctx context.Context, to Dir) error
}

// Copy makes a snapshot of a saved app: its memory files are shared. If it fails,
// nothing is left of the copy.
func (d Dir) Copy(ctx context.Context, o CopyOptions) (_ Dir, err error) {
	m, err := d.Open(ctx, ByStamp, o.Store)
	if err != nil {
		return "", err
	}
	// The app may be woken and saved anew before the copy is committed.
	o.Store.Pin(m.MemoryFiles())
	defer o.Store.Unpin(m.MemoryFiles())
	for _, f := range m.Memory {
		// A sweep may have come between.
		if err := o.Store.Check(ctx, f.File, ByStamp); err != nil {
			return "", fmt.Errorf("%w: %w", tree.ErrDamaged, err)
		}
	}
	partial, err := Begin(o.Target)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	if o.Volatile {
		partial.Volatile()
	}
	images := partial.Dir().Images()
	if err := errors.Join(tree.Copy(ctx, d.Images(), images), tree.Copy(ctx, d.Shm(), partial.Dir().Shm()), tree.CopyExcept(ctx, d.Dev(), partial.Dir().Dev(), nil)); err != nil {
		return "", err
	}
	for i := range m.Memory {
		if image := m.Memory[i].Image; image != "" { // it leads from where it was
			if err := os.Remove(filepath.Join(images, image)); err != nil {
				return "", fmt.Errorf("link memory file: %w", err)
			}
		}
	}
	if err := partial.Dir().linkMemory(m, o.Store); err != nil {
		return "", err
	}
	o.Change(m)
	if o.CopyFiles != nil {
		if err := o.CopyFiles(ctx, partial.Dir()); err != nil {
			return "", err
		}
	}
	unpin, err := partial.adoptStorage(ctx, o.Layers, m)
	if err != nil {
		return "", err
	}
	defer unpin()
	return partial.commit(ctx, m, o.Store)
}
