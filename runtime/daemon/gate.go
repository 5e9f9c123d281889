package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/installation"
)

// gate has the installation decide which endpoints may be in their networks.
type gate struct{ hosts *installation.Installation }

var _ vem.Gate = gate{}

// Kept implements [vem.Gate].
func (g gate) Kept(network string) map[netip.Addr]string { return g.hosts.Kept(network) }

// Admit implements [vem.Gate].
func (g gate) Admit(c vem.Claim) error {
	if c.Spare != nil { // nobody reaches one that stands ready
		return nil
	}
	return g.hosts.Admit(endpointOf(c))
}

// Claim implements [vem.Gate].
func (g gate) Claim(ctx context.Context, c vem.Claim, asked bool) error {
	if c.Spare != nil {
		return nil
	}
	return claimRefused(g.hosts.Claim(ctx, endpointOf(c), asked))
}

// claimRefused has users, and whoever tries another address, know what an error means.
func claimRefused(err error) error {
	if taken, ok := errors.AsType[*directory.TakenError](err); ok {
		there := taken.There
		return &vem.TakenError{App: fmt.Sprintf("%s on host %s", there.App, there.Owner), Network: there.Network, Addr: there.Addr}
	}
	if named, ok := errors.AsType[*directory.NameError](err); ok {
		return fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, named)
	}
	if block, ok := errors.AsType[*directory.BlockError](err); ok {
		return app.Refuse(block)
	}
	return err
}

// readmit has the engine go by what the gate says now.
func (d *Daemon) readmit() {
	d.tasks.Run(func(ctx context.Context) {
		select {
		case <-d.recovered:
			for _, a := range d.engine.Apps.List() {
				d.engine.Readmit(ctx, a)
			}
		case <-ctx.Done():
		}
	})
}
