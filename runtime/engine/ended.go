package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/vem/netns"
)

// saveStopped saves an app that has ended: its files. Whatever is made of it runs the program
// anew. Returns where.
func (eng *Engine) saveStopped(ctx context.Context, r *Run, req SnapshotRequest) (snapshot.Dir, error) {
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
	o.Manifest.Name = filepath.Base(string(target))
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

// revive makes the processes of an app that is made of a snapshot: those that were
// saved, or the program anew if there were none.
func (eng *Engine) revive(ctx context.Context, r *Run, b Birth) (*process.Process, error) {
	a := r.Subject
	if b.Source.Manifest.Processes > 0 {
		connections, err := b.Source.Connections(b.Plan.Connections.Internal)
		if err != nil {
			return nil, err
		}
		return eng.Tools.Revive(ctx, a.Subject(), checkpoint.Revival{
			From: b.Source.Dir, Manifest: b.Source.Manifest, Pages: b.Pages, Hostname: b.Plan.Hostname, Step: r.Step, At: r.At,
			Connections: connections, Options: b.Source.SocketOptions,
			Enclose:   func(ctx context.Context) (*netns.NS, error) { return eng.enclose(ctx, a) },
			Meanwhile: func(ctx context.Context) error { return eng.furnish(ctx, r, b) },
			Connect:   func(ctx context.Context, ns *netns.NS) error { return eng.connect(ctx, a, b.Plan, ns) },
		})
	}
	r.Step("start program")
	ns, err := eng.enclose(ctx, a)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	if err := errors.Join(eng.furnish(ctx, r, b), eng.connect(ctx, a, b.Plan, ns)); err != nil {
		return nil, err
	}
	launch, err := a.Box.Launch(ctx, ns)
	if err != nil {
		return nil, err
	}
	proc, err := launch.Run()
	return proc, errors.Join(err, launch.Close())
}
