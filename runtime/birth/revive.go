package birth

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/vem/netns"
)

// revive makes the processes of an app that is made of a snapshot: those that were
// saved, or the program anew if there were none.
func (m *Maker) revive(ctx context.Context, r *engine.Run, b Birth) (*process.Process, error) {
	a := r.Subject
	if b.Source.Manifest.Processes > 0 {
		connections, err := b.Source.Connections(b.Plan.Connections.Internal)
		if err != nil {
			return nil, err
		}
		return m.engine.Tools.Revive(ctx, a.Subject(), checkpoint.Revival{
			From: b.Source.Dir, Manifest: b.Source.Manifest, Pages: b.Pages, Hostname: b.Plan.Hostname, Step: r.Step, At: r.At,
			Connections: connections, Options: b.Source.SocketOptions,
			Enclose:   func(ctx context.Context) (*netns.NS, error) { return m.engine.Enclose(ctx, a) },
			Meanwhile: func(ctx context.Context) error { return m.furnish(ctx, r, b) },
			Connect:   func(ctx context.Context, ns *netns.NS) error { return connect(ctx, a, b.Plan, ns) },
		})
	}
	r.Step("start program")
	ns, err := m.engine.Enclose(ctx, a)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	if err := errors.Join(m.furnish(ctx, r, b), connect(ctx, a, b.Plan, ns)); err != nil {
		return nil, err
	}
	launch, err := a.Box.Launch(ctx, ns)
	if err != nil {
		return nil, err
	}
	proc, err := launch.Run()
	return proc, errors.Join(err, launch.Close())
}
