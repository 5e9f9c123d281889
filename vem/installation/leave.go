package installation

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/snapctl/snapctl/vem/ownership"
)

// left ends what runs here for an installation that this host has left, and removes its files. The
// daemon that left may be an earlier one.
func (i *Installation) left(ctx context.Context) error {
	if p := i.part.Swap(nil); p != nil {
		// Other hosts refuse this one already, and take their ends of channels down themselves.
		p.server.Close()
		p.peers.Close()
		if err := i.opt.Unshare(ctx); err != nil {
			i.opt.Log.WarnContext(ctx, "take the channels to other hosts down", slog.Any("error", err))
		}
		p.end()
		if err := p.gateway.Leave(ctx); err != nil {
			i.opt.Log.WarnContext(ctx, "take this host itself out of its networks", slog.Any("error", err))
		}
		p.mesh.Close()
		p.ranges.Forget()
	}
	if err := i.upkeep.Wipe(ctx); err != nil {
		return err
	}
	errs := []error{ownership.RemoveRanges(i.opt.Dir), i.ledger.Remove()}
	for _, path := range []string{string(i.choice()), i.gatewayFile(), i.secretFile(), i.secretFile() + ".log"} {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	i.opt.Admitted() // what another host has taken over is this host's own again
	return nil
}
