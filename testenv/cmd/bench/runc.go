package main

import (
	"context"
	"fmt"
	"net"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// runcFrozen is how long a container with n connections stands still, in ms.
func runcFrozen(ctx context.Context, w *rig.World, b *rig.Bench, n, mib int) (_ []float64, err error) {
	c, err := w.Runc(ctx, mib)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := c.End(ctx); err == nil {
			err = cerr
		}
	}()
	conns, err := w.Crowd(ctx, rig.RuncEndpoint, n)
	if err != nil {
		return nil, err
	}
	defer rig.CloseAll(conns)
	var values []float64
	for range b.Passes {
		d, err := c.Checkpoint(ctx, "--leave-running")
		if err != nil {
			return nil, err
		}
		values = append(values, rig.MS(d))
	}
	return values, nil
}

// runcWake is how long `runc restore` takes to bring a container with one
// connection back, in ms; the connection is used afterwards.
func runcWake(ctx context.Context, w *rig.World, mib int) (_ float64, err error) {
	c, err := w.Runc(ctx, mib)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := c.End(ctx); err == nil {
			err = cerr
		}
	}()
	conns, err := w.Crowd(ctx, rig.RuncEndpoint, 1)
	if err != nil {
		return 0, err
	}
	defer rig.CloseAll(conns)
	if _, err := c.Checkpoint(ctx); err != nil {
		return 0, err
	}
	took, err := c.Restore(ctx)
	if err != nil {
		return 0, err
	}
	return rig.MS(took), use(conns)
}

// use has each connection echo once more.
func use(conns []net.Conn) error {
	for _, conn := range conns {
		if _, err := rig.Ping(conn); err != nil {
			return fmt.Errorf("use a restored connection: %w", err)
		}
	}
	return nil
}
