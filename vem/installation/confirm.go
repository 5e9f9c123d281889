package installation

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
	all, err := r.directory.Endpoints(ctx)
	if err != nil {
		return err
	}
	err = r.ledger.Change(func(known map[ownership.Spot]ownership.Copy) {
		for _, e := range all {
			c, ok := known[ownership.SpotOf(e)]
			if e.Owner != r.self || ok && c.Knows(e) {
				continue
			}
			// After a claim or a takeover of which its daemon did not see the end.
			next := ownership.Copy{Endpoint: e, State: ownership.Owned, Kept: e.TakenFrom != "", Restored: restored}
			if c.Allowed(r.boot) && c.Endpoint.App == e.App {
				next.Allow(r.boot)
			}
			known[next.Spot()] = next
		}
	})
	if err != nil {
		return err
	}
	var mine []ownership.Copy
	for _, c := range r.ledger.All() {
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
	verdicts, err := s.Confirm(ctx, endpoints(mine), r.boot)
	if err != nil {
		return err
	}
	changed := false
	err = r.ledger.Change(func(all map[ownership.Spot]ownership.Copy) {
		for i, c := range mine {
			next := c.Judge(verdicts[i], rand.Text(), r.boot)
			changed = changed || next.Allowed(r.boot) != c.Allowed(r.boot) || next.State != c.State
			all[c.Spot()] = next
		}
	})
	if err == nil && changed {
		r.admitted()
	}
	return err
}

// doubtful are the copies of which the cache knows something else than the ledger.
func (r *Registrar) doubtful() (list []ownership.Copy) {
	fresh := r.cache.Freshness()
	if fresh.Err != nil {
		return nil
	}
	known := make(map[ownership.Spot]directory.Endpoint)
	for _, e := range r.cache.Endpoints() {
		known[ownership.SpotOf(e)] = e
	}
	for _, c := range r.ledger.All() {
		if c.State != ownership.Owned || c.Endpoint.Revision > fresh.Revision {
			continue // what is known is older than the copy
		}
		e, ok := known[c.Spot()]
		if !ok || e.ID != c.Endpoint.ID || e.Owner != r.self || e.Epoch != c.Endpoint.Epoch {
			list = append(list, c)
		}
	}
	return list
}

// differs tells whether what the directory says of an endpoint is news for this host.
func (r *Registrar) differs(at ownership.Spot, now *directory.Endpoint) bool {
	c, ok := r.ledger.Get(at)
	if !ok || c.State == ownership.Lost {
		return false
	}
	return now == nil || now.ID != c.Endpoint.ID || now.Owner != r.self || now.Epoch != c.Endpoint.Epoch
}
