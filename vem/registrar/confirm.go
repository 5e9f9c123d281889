package registrar

import (
	"context"
	"crypto/rand"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/ownership"
)

// takeUp goes on with what this host had, as the directory has it: a copy that was saved before
// this boot may send from now on if its record names this host.
//
// restored is the last restoration of the directory before this session began.
func (r *Registrar) takeUp(ctx context.Context, s *directory.Session, restored string) error {
	all, err := r.opt.Directory.Endpoints(ctx)
	if err != nil {
		return err
	}
	err = r.opt.Ledger.Change(func(known map[ownership.Spot]ownership.Copy) {
		for _, e := range all {
			c, ok := known[ownership.SpotOf(e)]
			if e.Owner != r.opt.Self || ok && c.Knows(e) {
				continue
			}
			// After a claim or a takeover of which its daemon did not see the end.
			next := ownership.Copy{Endpoint: e, State: ownership.Owned, Kept: e.TakenFrom != "", Restored: restored}
			if c.Allowed(r.opt.Boot) && c.Endpoint.App == e.App {
				next.Allow(r.opt.Boot)
			}
			known[next.Spot()] = next
		}
	})
	if err != nil {
		return err
	}
	var mine []ownership.Copy
	for _, c := range r.opt.Ledger.All() {
		if c.State != ownership.Lost {
			mine = append(mine, c)
		}
	}
	return r.confirm(ctx, s, mine)
}

// confirm asks the directory how copies stand, and notes it.
func (r *Registrar) confirm(ctx context.Context, s *directory.Session, mine []ownership.Copy) error {
	if len(mine) == 0 {
		return nil
	}
	verdicts, err := s.Confirm(ctx, endpoints(mine), r.opt.Boot)
	if err != nil {
		return err
	}
	changed := false
	err = r.opt.Ledger.Change(func(all map[ownership.Spot]ownership.Copy) {
		for i, c := range mine {
			next := c.Judge(verdicts[i], rand.Text(), r.opt.Boot)
			changed = changed || next.Allowed(r.opt.Boot) != c.Allowed(r.opt.Boot) || next.State != c.State
			all[c.Spot()] = next
		}
	})
	if err == nil && changed {
		r.opt.Admitted()
	}
	return err
}

// doubtful are the copies of which the cache knows something else than the ledger.
func (r *Registrar) doubtful() (list []ownership.Copy) {
	fresh := r.opt.Cache.Freshness()
	if fresh.Err != nil {
		return nil
	}
	known := make(map[ownership.Spot]directory.Endpoint)
	for _, e := range r.opt.Cache.Endpoints() {
		known[ownership.SpotOf(e)] = e
	}
	for _, c := range r.opt.Ledger.All() {
		if c.State != ownership.Owned || c.Endpoint.Revision > fresh.Revision {
			continue // what is known is older than the copy
		}
		e, ok := known[c.Spot()]
		if !ok || e.ID != c.Endpoint.ID || e.Owner != r.opt.Self || e.Epoch != c.Endpoint.Epoch {
			list = append(list, c)
		}
	}
	return list
}

// Differs tells whether what the directory says of an endpoint is news for this host.
func (r *Registrar) Differs(at ownership.Spot, now *directory.Endpoint) bool {
	c, ok := r.opt.Ledger.Get(at)
	if !ok || c.State == ownership.Lost {
		return false
	}
	return now == nil || now.ID != c.Endpoint.ID || now.Owner != r.opt.Self || now.Epoch != c.Endpoint.Epoch
}
