package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/snapshot/layer"
)

// FilesOptions says what [TakeFiles] saves.
type FilesOptions struct {
	Target   string // the directory that the snapshot becomes
	Manifest Manifest
	// Layers takes the files that CopyFiles copied to the storage directory.
	Layers *layer.Store
	// CopyFiles copies the app's files into the snapshot; nil if all of them are in
	// the manifest's layers.
	CopyFiles func(ctx context.Context, to Dir) error
}

// TakeFiles makes a snapshot of an app that has no processes: of its files alone. If it
// fails nothing is left.
func TakeFiles(ctx context.Context, o FilesOptions) (_ Dir, err error) {
	partial, err := Begin(o.Target)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	m := o.Manifest
	m.Processes, m.WithStorage = 0, true
	if o.CopyFiles != nil {
		if err := o.CopyFiles(ctx, partial.Dir()); err != nil {
			return "", err
		}
	}
	unpin, err := partial.adoptStorage(ctx, o.Layers, &m)
	if err != nil {
		return "", err
	}
	defer unpin()
	dir, err := partial.Commit(ctx, &m)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", m.App, err)
	}
	return dir, nil
}
