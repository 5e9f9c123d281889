package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/vem/netns"
)

// saveStopped makes a snapshot of an app that has ended: of its files. Whatever is made
// of it runs the program anew. The caller has the app's turn.
func (eng *Engine) saveStopped(ctx context.Context, a *App, req SnapshotRequest) (*snapshot.Manifest, *Outcome, error) {
	req.Op.Step("save files")
	target, free, err := eng.reserve(ctx, req, a.Name())
	if err != nil {
		return nil, nil, err
	}
	defer free()
	defer eng.Storage.SweepSoon()
	layers, shared, err := eng.restack(ctx, a)
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", a.Name(), err)
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
	if err := fault.Point(ctx, fault.SnapshotBeforeCommit); err != nil {
		return nil, nil, err
	}
	dir, err := snapshot.TakeFiles(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	m, err := dir.Manifest()
	return m, &Outcome{}, err
}

// revive makes the processes of an app that is made of a snapshot: those that were
// saved, or the program anew if there were none.
func (eng *Engine) revive(ctx context.Context, a *App, b Birth, op *event.Operation) (*process.Process, error) {
	if b.Source.Manifest.Processes > 0 {
		connections, err := b.Source.connections(b.Plan.Connections.Internal)
		if err != nil {
			return nil, err
		}
		return eng.tools().Revive(ctx, a.subject(), checkpoint.Revival{
			From: b.Source.Dir, Manifest: b.Source.Manifest, Pages: b.Pages, Hostname: b.Plan.Hostname, Step: op.Step,
			Connections: connections, Options: b.Source.socketOptions,
			Enclose:   func(ctx context.Context) (*netns.NS, error) { return eng.enclose(ctx, a) },
			Meanwhile: func(ctx context.Context) error { return eng.furnish(ctx, a, b, op) },
			Connect:   func(ctx context.Context, ns *netns.NS) error { return eng.connect(ctx, a, b.Plan, ns) },
		})
	}
	op.Step("start program")
	ns, err := eng.enclose(ctx, a)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	if err := errors.Join(eng.furnish(ctx, a, b, op), eng.connect(ctx, a, b.Plan, ns)); err != nil {
		return nil, err
	}
	launch, err := a.Box.Launch(ctx, ns)
	if err != nil {
		return nil, err
	}
	proc, err := launch.Run()
	return proc, errors.Join(err, launch.Close())
}
