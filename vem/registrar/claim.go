package registrar

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

// NameIsFree returns an error if an app of this name is known to be on another host.
func (r *Registrar) NameIsFree(e Endpoint) error {
	for _, other := range r.opt.Cache.Endpoints() {
		if other.App == e.App && other.Owner != r.opt.Self {
			return &directory.NameError{App: e.App, Network: other.Network, Addr: other.Addr}
		}
	}
	return nil
}

// Claim claims one endpoint.
func (r *Registrar) Claim(ctx context.Context, e Endpoint) error {
	done, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := r.session.Load()
	was, ok := r.opt.Ledger.Get(e.Spot())
	if ok && was.Endpoint.App == e.App && was.State != ownership.Lost {
		if !was.Allowed(r.opt.Boot) {
			if err := r.confirm(ctx, s, []ownership.Copy{was}); err != nil {
				return err
			}
		}
		if was, _ = r.opt.Ledger.Get(e.Spot()); was.Allowed(r.opt.Boot) {
			return nil
		}
	}
	if ok && was.Endpoint.App != e.App && was.State != ownership.Lost {
		if err := r.release(ctx, s, []ownership.Copy{was}); err != nil {
			return err
		}
	}
	return r.claimNew(ctx, s, e)
}

// Keep claims the endpoint of an app that is stopped, and has none in the directory therefore, so that it can
// move. The VEM wants it from before on. Returns a [*membership.Error] if the network is this host's own.
func (r *Registrar) Keep(ctx context.Context, at ownership.Spot, app string) error {
	switch {
	case r.opt.Private(at.Network):
		return &membership.Error{Text: fmt.Sprintf("network %s is this host's own: no other host has it", at.Network)}
	case !r.Begun():
		return errNotReached
	}
	return r.Claim(ctx, Endpoint{Network: at.Network, App: app, Addr4: at.Addr})
}

func (r *Registrar) claimNew(ctx context.Context, s *directory.Session, e Endpoint) error {
	was, ok := r.opt.Ledger.Get(e.Spot())
	c := ownership.Copy{Endpoint: directory.Endpoint{
		Network: e.Network, Addr: e.Addr4, ID: rand.Text(), App: e.App, Owner: r.opt.Self, Epoch: 1, State: directory.Running,
		Ports: e.Ports,
	}, State: ownership.Claiming, Restored: *r.restored.Load()}
	// Another host could give the address out, and not know of this app while it can't reach the
	// directory.
	if _, err := s.LeaseBlockOf(ctx, e.Network, e.Addr4, time.Now()); err != nil {
		return err
	}
	r.Changed() // it gives addresses of that block out, too
	if err := r.opt.Ledger.Put(c); err != nil {
		return err
	}
	o := s.Claim(ctx, endpoints([]ownership.Copy{c}))[0]
	if err := r.claimed(c, o); err != nil || o.Err == nil {
		return err // it may have happened: then it is released when the endpoint is gone
	}
	var err error
	if ok {
		err = r.opt.Ledger.Put(was)
	} else {
		err = r.opt.Ledger.Drop(c.Spot())
	}
	return errors.Join(o.Err, err)
}
