package registrar

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/ownership"
)

// reside has this host itself be in a network, at another address than before if that is somebody
// else's now: an old backup of the directory may have brought that about.
func (r *Registrar) reside(ctx context.Context, network string) error {
	c, ok := r.opt.Ledger.Get(ownership.Spot{Network: network, Addr: r.opt.Gateway.At(network)})
	if ok && c.State == ownership.Lost && c.Now != nil {
		if err := r.opt.Gateway.MoveOut(ctx, network); err != nil {
			return err
		}
	}
	return r.opt.Gateway.Reside(ctx, network)
}

// publish brings the records up to date whose endpoints publish other ports than before, and those that
// tell that this host is a gateway.
func (r *Registrar) publish(ctx context.Context, s *directory.Session) error {
	var errs []error
	for _, e := range r.opt.Local.Present() {
		c, ok := r.opt.Ledger.Get(e.Spot())
		if c.Endpoint.OfHost() {
			e.Ports = r.opt.Gateway.Settings().Format()
		}
		if !ok || c.State != ownership.Owned || c.Endpoint.App != e.App || c.Endpoint.Ports == e.Ports {
			continue
		}
		next, err := s.Publish(ctx, c.Endpoint, e.Ports)
		if err == nil {
			c.Endpoint = next
			err = r.opt.Ledger.Put(c)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
