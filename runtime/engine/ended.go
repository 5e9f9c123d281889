package engine

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
)

// CopyStopped saves an app that has ended: its files. Whatever is made of it runs the program
// anew. It is a part of r, as in CopyHeld. Returns where.
func (eng *Engine) CopyStopped(ctx context.Context, r *Run, req SnapshotRequest) (snapshot.Dir, error) {
	a := r.Subject
	r.Step("save files")
	target, free, err := eng.reserve(ctx, req, a.Name())
	if err != nil {
		return "", err
	}
	defer free()
	layers, shared, err := eng.restack(ctx, a)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", a.Name(), err)
	}
	rec, _ := a.Read()
	o := snapshot.FilesOptions{
		Target: string(target), Layers: eng.Storage.Layers,
		Manifest: eng.manifest(&rec),
	}
	o.Manifest.Name, o.Manifest.Passing = filepath.Base(string(target)), req.Passing
	if shared {
		o.Manifest.Layers = layers
	} else {
		o.CopyFiles = func(ctx context.Context, to snapshot.Dir) error {
			return layer.CopyUpper(ctx, a.Box.Upper(), to.Storage())
		}
	}
	if err := r.At(ctx, "written"); err != nil {
		return "", err
	}
	return snapshot.TakeFiles(ctx, o)
}
