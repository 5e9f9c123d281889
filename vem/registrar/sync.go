package registrar

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/ownership"
)

// sync makes the records as the VEM's endpoints are. The caller has the turn.
func (r *Registrar) sync(ctx context.Context, s *directory.Session) error {
	if err := r.confirm(ctx, s, r.doubtful()); err != nil {
		return err
	}
	networks := map[string]bool{DefaultNetwork: !r.opt.Private(DefaultNetwork)}
	for _, e := range r.opt.Local.Present() {
		networks[e.Network] = true
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		if !networks[name] {
			continue
		}
		err := r.prepare(ctx, s, name)
		if err == nil {
			err = r.reside(ctx, name)
		}
		errs = append(errs, err)
	}
	errs = append(errs, r.reclaim(ctx, s))
	claims, releases, lost := r.differences()
	// After the releases: another app may have an address, or a name, that one had which is gone.
	errs = append(errs, r.release(ctx, s, releases), r.forget(ctx, lost), r.claimAll(ctx, s, claims), r.publish(ctx, s))
	return errors.Join(errs...)
}

// DefaultNetwork is in the directory also while no endpoint is in it.
const DefaultNetwork = "default"

// prepare enters a network into the directory, and sees to it that this host has addresses of it
// to give out.
func (r *Registrar) prepare(ctx context.Context, s *directory.Session, name string) error {
	space, err := r.opt.Local.Space(name)
	if err != nil {
		return err
	}
	n, err := s.PutNetwork(ctx, name, space, time.Now())
	if err != nil {
		return err
	}
	blocks, err := r.opt.Directory.Blocks(ctx, r.opt.Self)
	if err != nil {
		return err
	}
	used := func(a netip.Addr) bool {
		_, mine := r.opt.Ledger.Get(ownership.Spot{Network: name, Addr: a})
		_, ok := r.opt.Local.Find(name, a)
		return ok || mine
	}
	if blocks.Low(n, used) {
		b, err := s.LeaseBlock(ctx, name, time.Now())
		if err != nil {
			return err
		}
		blocks = blocks.With(b)
	}
	return r.setRanges(name, blocks)
}

func (r *Registrar) setRanges(network string, blocks directory.Blocks) error {
	var list []netip.Prefix
	for _, b := range blocks {
		if b.Network == network {
			list = append(list, b.Prefix)
		}
	}
	return r.opt.Ranges.Set(network, list)
}

// differences are the copies whose records are missing, those whose records are there in vain, and
// those that are lost and that nobody wants any more.
func (r *Registrar) differences() (claims, releases, lost []ownership.Copy) {
	present := make(map[ownership.Spot]bool)
	for _, e := range r.opt.Local.Present() {
		present[e.Spot()] = true
	}
	wanted := make(map[ownership.Spot]string)
	for _, e := range r.opt.Local.Wanted() {
		at := e.Spot()
		wanted[at] = e.App
		c, ok := r.opt.Ledger.Get(at)
		switch same := ok && c.Endpoint.App == e.App; {
		case same && c.State == ownership.Claiming:
			claims = append(claims, c)
		case !same && present[at], // one that is not there yet may have to ask first
			same && c.State == ownership.Lost && c.Endpoint.OfHost(): // nobody else can have it
			c := ownership.Copy{Endpoint: directory.Endpoint{
				Network: e.Network, Addr: e.Addr4, ID: rand.Text(), App: e.App, Owner: r.opt.Self, Epoch: 1, State: directory.Running, Ports: e.Ports,
			}, State: ownership.Claiming, Restored: *r.restored.Load()}
			c.Allow(r.opt.Boot)
			claims = append(claims, c)
		}
	}
	for _, c := range r.opt.Ledger.All() {
		switch app, ok := wanted[c.Spot()]; {
		case ok && app == c.Endpoint.App:
		case c.State == ownership.Lost:
			lost = append(lost, c)
		case c.State == ownership.Forgotten: // it can be released when the directory knows it
		case !c.Kept:
			releases = append(releases, c)
		}
	}
	return claims, releases, lost
}

// release ends endpoints, and forgets them.
func (r *Registrar) release(ctx context.Context, s *directory.Session, list []ownership.Copy) error {
	if len(list) == 0 {
		return nil
	}
	var errs []error
	var gone []ownership.Spot
	for i, o := range s.Release(ctx, endpoints(list)) {
		if o.Err == nil {
			gone = append(gone, list[i].Spot())
		}
		errs = append(errs, o.Err)
	}
	return errors.Join(append(errs, r.opt.Ledger.Drop(gone...))...)
}

func endpoints(list []ownership.Copy) (all []directory.Endpoint) {
	for _, c := range list {
		all = append(all, c.Endpoint)
	}
	return all
}

// forget forgets copies that are lost and that nobody wants, if nobody has their endpoints any
// more: as long as somebody has, this host gives no app the address.
func (r *Registrar) forget(ctx context.Context, lost []ownership.Copy) error {
	var errs []error
	var gone []ownership.Spot
	for _, c := range lost {
		_, err := r.opt.Cache.Lookup(ctx, c.Endpoint.Network, c.Endpoint.Addr)
		switch {
		case errors.Is(err, directory.ErrNotFound):
			gone = append(gone, c.Spot())
		case err != nil:
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, r.opt.Ledger.Drop(gone...))...)
}

// claimAll claims endpoints, which are in the ledger before.
func (r *Registrar) claimAll(ctx context.Context, s *directory.Session, list []ownership.Copy) error {
	if len(list) == 0 {
		return nil
	}
	if err := r.opt.Ledger.Put(list...); err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, r.lease(ctx, s, c.Endpoint))
	}
	errs = append(errs, r.settle(ctx, list, s.Claim(ctx, endpoints(list))))
	return errors.Join(errs...)
}

// settle notes what became of claims.
func (r *Registrar) settle(ctx context.Context, list []ownership.Copy, outcomes []directory.Outcome) error {
	var errs []error
	for i, o := range outcomes {
		if err := r.claimed(list[i], o); err != nil {
			errs = append(errs, err)
		} else if o.Err != nil {
			r.complain(ctx, list[i], o.Err)
		}
	}
	return errors.Join(errs...)
}

// reclaim makes endpoints this host's once more which a restored directory has forgotten.
func (r *Registrar) reclaim(ctx context.Context, s *directory.Session) error {
	var list []ownership.Copy
	for _, c := range r.opt.Ledger.All() {
		if c.State == ownership.Forgotten {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return nil
	}
	r.opt.Log.WarnContext(ctx, "the directory was put back from a backup, and has forgotten endpoints of this host: they are claimed again", slog.Int("endpoints", len(list)))
	var errs []error
	for _, c := range list {
		errs = append(errs, r.lease(ctx, s, c.Endpoint))
	}
	return errors.Join(append(errs, r.settle(ctx, list, s.Reclaim(ctx, endpoints(list))))...)
}

// lease sees to it that no other host gives out an address of this one: the block of one that
// somebody asked for may be nobody's yet. That another host has the block is no error.
func (r *Registrar) lease(ctx context.Context, s *directory.Session, e directory.Endpoint) error {
	if b, ok := r.opt.Cache.Blocks().Find(e.Network, e.Addr); ok && b.Host == r.opt.Self {
		return nil
	}
	_, err := s.LeaseBlockOf(ctx, e.Network, e.Addr, time.Now())
	if _, others := errors.AsType[*directory.BlockError](err); others {
		return nil
	}
	return err
}

// claimed notes what became of a claim. An endpoint whose address another one has is lost. One
// whose name another app has stays what it is on this host: only others don't reach it. That is
// said by o.Err, and is no error of claimed.
func (r *Registrar) claimed(c ownership.Copy, o directory.Outcome) error {
	was := c
	taken, isTaken := errors.AsType[*directory.TakenError](o.Err)
	_, isNamed := errors.AsType[*directory.NameError](o.Err)
	switch {
	case o.Err == nil:
		c.Endpoint, c.State = o.Endpoint, ownership.Owned
		if known := r.restored.Load(); known != nil {
			c.Restored = *known
		}
		c.Allow(r.opt.Boot)
		r.settled(c.Spot())
	case isTaken:
		c.State, c.Permit, c.Now = ownership.Lost, directory.Permit{}, &taken.There
	case isNamed:
		return nil
	default:
		return o.Err
	}
	err := r.opt.Ledger.Put(c)
	if err == nil && was.Allowed(r.opt.Boot) != c.Allowed(r.opt.Boot) {
		r.opt.Admitted()
	}
	return err
}

func (r *Registrar) settled(at ownership.Spot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.failed, at)
}

// complain logs once why other hosts can't reach an app.
func (r *Registrar) complain(ctx context.Context, c ownership.Copy, err error) {
	r.mu.Lock()
	text := err.Error()
	said := r.failed[c.Spot()] == text
	r.failed[c.Spot()] = text
	r.mu.Unlock()
	if !said {
		r.opt.Log.ErrorContext(ctx, "other hosts can't reach an app of this host", slog.Any("error", err))
	}
}
