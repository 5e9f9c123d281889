package installation

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/pause"
)

// Recovered tells that the VEM knows all endpoints that an earlier daemon had: from now on those
// that it does not have are ended; and what that daemon has begun to leave is left.
func (i *Installation) Recovered(ctx context.Context) {
	close(i.recovered)
	if _, told := i.Departing(); told {
		i.depart(ctx)
	}
	i.opt.Run(func(ctx context.Context) {
		for i.depart(ctx) && pause.For(ctx, again, nil) {
		}
	})
}

// depart goes on with a departure that an earlier daemon has begun, with this host's part running as it
// did then, so that all of it is taken down. It tells whether that is to be tried again.
func (i *Installation) depart(ctx context.Context) (unfinished bool) {
	if begun, _ := i.Departing(); !begun {
		return false
	}
	_, err := i.running()
	if err == nil {
		err = i.Depart(ctx)
	}
	if err != nil && ctx.Err() == nil {
		i.opt.Log.WarnContext(ctx, "this host was about to leave its installation", slog.Any("error", err))
	}
	begun, _ := i.Departing()
	return begun
}

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
		p.End()
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
