package registrar

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

// An endpoint moves from its host to another one, the target, in these steps. What is on the left is done by
// the host that has it.
//
//	Depart     the record says that it moves to the target; it goes on as before
//	           Expect      the target knows the endpoint, and gives its address and name to nobody else
//	           (the target has a copy of the app)
//	GiveAway   the endpoint may not send any more here, and then it is the target's: the point of no return
//	           Arrived     the target may send
//
// Stay and Dismiss call it off. Which of the two hosts has the endpoint is what the directory says, whoever
// dies, and whichever answer does not come.

// errNotReached is that nothing can be written into the directory yet.
var errNotReached = fmt.Errorf("the directory must be reached first: %w", directory.ErrUnavailable)

// Depart says in the directory that an endpoint of this host is about to move to another host. It returns
// the record.
func (r *Registrar) Depart(ctx context.Context, at ownership.Spot, to string) (directory.Endpoint, error) {
	c, s, done, err := r.owned(ctx, at)
	if err != nil {
		return directory.Endpoint{}, err
	}
	defer done()
	if c.Endpoint, err = s.Update(ctx, c.Endpoint, directory.Moving, to); err != nil {
		return directory.Endpoint{}, err
	}
	return c.Endpoint, r.opt.Ledger.Put(c)
}

// owned returns a copy that the directory has as this host's, and takes the turn to write, which done
// gives back.
func (r *Registrar) owned(ctx context.Context, at ownership.Spot) (_ ownership.Copy, _ *directory.Session, done func(), err error) {
	if !r.Begun() {
		return ownership.Copy{}, nil, nil, errNotReached
	}
	if done, err = r.enter(ctx); err != nil {
		return ownership.Copy{}, nil, nil, err
	}
	c, ok := r.opt.Ledger.Get(at)
	if !ok || c.State != ownership.Owned {
		done()
		if c.State == ownership.Lost {
			return c, nil, nil, Lost(c)
		}
		return c, nil, nil, &membership.Error{
			Text:   fmt.Sprintf("the directory does not say yet that endpoint %s is this host's", at.Addr),
			Remedy: "try again when snapctl doctor finds nothing wrong with the directory",
		}
	}
	return c, r.session.Load(), done, nil
}

// GiveAway makes an endpoint the target's that is departing. Before that the copy of this host gets its
// permit taken away for good: the caller has stopped its packets. If it fails it is not known whether the
// endpoint is the target's: Stay tells.
func (r *Registrar) GiveAway(ctx context.Context, at ownership.Spot, to string) error {
	c, s, done, err := r.owned(ctx, at)
	if err != nil {
		return err
	}
	defer done()
	c.Permit = directory.Permit{}
	if err := r.opt.Ledger.Put(c); err != nil {
		return err
	}
	now, err := s.Transfer(ctx, c.Endpoint, to)
	if err != nil {
		return err
	}
	c.State, c.Now = ownership.Lost, &now
	return r.opt.Ledger.Put(c)
}

// Stay calls a move off. When it returns nil the endpoint is this host's, may send, and never becomes the
// target's by that move. It tells gone if the endpoint is the target's, or somebody else's, already. If it fails
// neither is known: it is called again before the app does anything.
func (r *Registrar) Stay(ctx context.Context, at ownership.Spot, state directory.State) (gone bool, err error) {
	c, s, done, err := r.owned(ctx, at)
	if c.State == ownership.Lost {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer done()
	c.Endpoint, err = s.Update(ctx, c.Endpoint, state, "")
	if other, ok := errors.AsType[*directory.OwnerError](err); ok {
		c.State, c.Permit, c.Now = ownership.Lost, directory.Permit{}, other.Now
		return true, r.opt.Ledger.Put(c)
	}
	if err != nil {
		return false, err
	}
	if err := r.opt.Ledger.Put(c); err != nil {
		return false, err
	}
	return false, r.confirm(ctx, s, []ownership.Copy{c})
}

// Expect keeps the address and the name of an endpoint for an app that moves to this host: there is its
// record as the other host has it. From then on an app of that name can be made here, which is in no network
// before Arrived. It returns a [*membership.Error] if no such endpoint can be here.
func (r *Registrar) Expect(ctx context.Context, there directory.Endpoint) error {
	if !r.Begun() {
		return errNotReached
	}
	done, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := r.Welcome(ctx, there); err != nil {
		return err
	}
	c := ownership.Copy{Endpoint: there, State: ownership.Arriving, Kept: true, Restored: *r.restored.Load()}
	c.Endpoint.Owner, c.Endpoint.Epoch, c.Endpoint.State, c.Endpoint.Target, c.Endpoint.TakenFrom = r.opt.Self, there.Epoch+1, directory.Held, "", ""
	return r.opt.Ledger.Put(c)
}

// Welcome returns why an endpoint, of which the network, the address and the app are known, can't come to this
// host: a [*membership.Error], or what keeps it from being known.
func (r *Registrar) Welcome(ctx context.Context, there directory.Endpoint) error {
	for _, e := range r.opt.Local.Wanted() {
		if e.App == there.App || e.Spot() == ownership.SpotOf(there) {
			return &membership.Error{
				Text:   fmt.Sprintf("app %s with endpoint %s is on host %s already", e.App, e.Addr4, r.opt.Self),
				Remedy: fmt.Sprintf("remove it there: snapctl rm --force %s", e.App),
			}
		}
	}
	if !r.Begun() {
		return errNotReached
	}
	return r.sameNetwork(ctx, there.Network)
}

// Arrived asks the directory whether an expected endpoint is this host's by now, and if so lets it send:
// [directory.Owner]. [directory.Pending] is one that may become this host's yet, and [directory.Lost] one
// that will not: its app is removed, and then Dismiss is called.
func (r *Registrar) Arrived(ctx context.Context, at ownership.Spot) (directory.Standing, error) {
	if !r.Begun() {
		return directory.Pending, errNotReached
	}
	done, err := r.enter(ctx)
	if err != nil {
		return directory.Pending, err
	}
	defer done()
	c, ok := r.opt.Ledger.Get(at)
	if !ok {
		return directory.Lost, nil
	}
	if err := r.confirm(ctx, r.session.Load(), []ownership.Copy{c}); err != nil {
		return directory.Pending, err
	}
	c, _ = r.opt.Ledger.Get(at)
	switch c.State { //nolint:exhaustive // the others are none of this host's
	case ownership.Owned:
		c.Kept = false
		return directory.Owner, r.opt.Ledger.Put(c)
	case ownership.Arriving:
		return r.coming(ctx, at, c)
	}
	return directory.Lost, nil
}

// coming tells whether an endpoint that is not this host's is on its way here.
func (r *Registrar) coming(ctx context.Context, at ownership.Spot, c ownership.Copy) (directory.Standing, error) {
	now, err := r.opt.Directory.Lookup(ctx, at.Network, at.Addr)
	if errors.Is(err, directory.ErrNotFound) {
		return directory.Lost, nil
	}
	if err != nil {
		return directory.Pending, err
	}
	if now.ID == c.Endpoint.ID && now.State == directory.Moving && now.Target == r.opt.Self {
		return directory.Pending, nil
	}
	if now.ID == c.Endpoint.ID && now.Owner == r.opt.Self {
		return directory.Pending, nil // since it was asked
	}
	return directory.Lost, nil
}

// Dismiss forgets an endpoint that was expected, and will not come.
func (r *Registrar) Dismiss(at ownership.Spot) error {
	if c, ok := r.opt.Ledger.Get(at); !ok || c.State != ownership.Arriving && c.State != ownership.Lost {
		return nil
	}
	return r.opt.Ledger.Drop(at)
}
