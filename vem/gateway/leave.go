package gateway

import (
	"context"
	"errors"
	"io/fs"
	"os"
)

// Leave undoes all that a forwarder has done, which does not run any more: this host has left its
// installation.
func (f *Forwarder) Leave(ctx context.Context) error {
	f.opt.VEM.SetGateway(Rules{})
	var errs []error
	for network := range f.file.State().Addresses {
		errs = append(errs, f.opt.VEM.SetFar(ctx, network, nil), f.opt.VEM.MoveOut(ctx, network))
	}
	if err := os.Remove(f.opt.Path); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
