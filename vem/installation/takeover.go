package installation

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

// Takeover makes the endpoint of an app this host's that belonged to a dead host: with the next
// epoch, and so that the dead host sees it before it lets a packet out again. From then on an app
// of that name, which is restored or run here, has the address; until then nobody answers there.
// To take over what this host has taken over from that host already changes nothing.
//
// Whoever calls it promises that no copy of the app runs on that host: see package directory. A
// daemon that dies before the directory has written it has done nothing; after that, the next one
// goes on with it.
//
// Returns a [*membership.Error] if it can't be: the host is alive, or does not have the app, an
// app of that name is here, or the directory can't be reached.
func (i *Installation) Takeover(ctx context.Context, app, from string) (ownership.Taken, error) {
	taken, err := i.takeover(ctx, app, from)
	if err == nil {
		return taken, nil
	}
	remedy := ""
	if known, ok := errors.AsType[*membership.Error](err); ok {
		remedy = known.Remedy
	}
	host, isHost := errors.AsType[*directory.HostError](err)
	switch {
	case isHost && host.Why == directory.HostAlive:
		remedy = fmt.Sprintf("if host %s is gone, wait some seconds until it is not seen any more: snapctl host ls tells", from)
	case isHost:
		remedy = "snapctl host ls lists the hosts"
	case errors.Is(err, directory.ErrUnavailable):
		remedy = i.seek()
	}
	return taken, &membership.Error{Text: fmt.Sprintf("take app %s over from host %s", app, from), Err: err, Remedy: remedy}
}

func (i *Installation) takeover(ctx context.Context, app, from string) (ownership.Taken, error) {
	d, err := i.Directory(ctx)
	if err != nil {
		return ownership.Taken{}, err
	}
	r := i.registrar()
	if !r.begun() {
		return ownership.Taken{}, fmt.Errorf("the directory must be reached first: %w", directory.ErrUnavailable)
	}
	if from == r.self {
		e, err := r.recall(ctx, app)
		return ownership.Taken{App: app, Network: e.Network, Addr: e.Addr, Epoch: e.Epoch, From: from, By: r.self}, err
	}
	if _, err := d.Host(ctx, from); err != nil {
		return ownership.Taken{}, err
	}
	e, err := r.takeover(ctx, app, from)
	return ownership.Taken{App: app, Network: e.Network, Addr: e.Addr, Epoch: e.Epoch, From: from, By: r.self}, err
}

// takeover takes an app's endpoint over, and keeps it.
func (r *Registrar) takeover(ctx context.Context, app, from string) (directory.Endpoint, error) {
	done, err := r.enter(ctx)
	if err != nil {
		return directory.Endpoint{}, err
	}
	defer done()
	there, err := r.directory.LookupApp(ctx, app)
	if errors.Is(err, directory.ErrNotFound) {
		return there, fmt.Errorf("the installation has no app %s", app)
	}
	if err != nil {
		return there, err
	}
	e := there
	if there.Owner != r.self || there.TakenFrom != from {
		if err := r.takeable(ctx, there, from); err != nil {
			return there, err
		}
		if err := r.step(ctx, membership.TakeoverBegun); err != nil {
			return there, err
		}
		if e, err = r.session.Load().Takeover(ctx, there); err != nil {
			return there, err
		}
	}
	if c, ok := r.ledger.Get(ownership.SpotOf(e)); ok && c.Kept && c.Allowed(r.boot) && c.Endpoint.ID == e.ID {
		return e, nil
	}
	if err := r.step(ctx, membership.TakeoverTold); err != nil {
		return e, err
	}
	c := ownership.Copy{Endpoint: e, State: ownership.Owned, Kept: true, Restored: *r.restored.Load()}
	if err := r.ledger.Put(c); err != nil {
		return e, err
	}
	if err := r.step(ctx, membership.TakeoverKept); err != nil {
		return e, err
	}
	if err := r.confirm(ctx, r.session.Load(), []ownership.Copy{c}); err != nil {
		return e, err
	}
	r.Changed()
	return e, nil
}

// recall makes an app's endpoint this host's again that was saved here before this boot, while the
// directory was put back from a backup: it does not tell whether another host took the endpoint over after
// the backup. Whoever calls it promises that none did.
func (r *Registrar) recall(ctx context.Context, app string) (directory.Endpoint, error) {
	done, err := r.enter(ctx)
	if err != nil {
		return directory.Endpoint{}, err
	}
	defer done()
	s := r.session.Load()
	for _, c := range r.ledger.All() {
		if c.Endpoint.App == app && c.State == ownership.Lost {
			return c.Endpoint, lost(c)
		}
		if c.Endpoint.App != app || c.State != ownership.Owned || c.Allowed(r.boot) {
			continue
		}
		if err := r.confirm(ctx, s, []ownership.Copy{c}); err != nil {
			return c.Endpoint, err
		}
		now, _ := r.ledger.Get(c.Spot())
		if now.State == ownership.Owned && !now.Allowed(r.boot) {
			now.State = ownership.Forgotten
			if err := r.ledger.Put(now); err != nil {
				return c.Endpoint, err
			}
			if err := r.reclaim(ctx, s); err != nil {
				return c.Endpoint, err
			}
			now, _ = r.ledger.Get(c.Spot())
		}
		if now.State == ownership.Lost {
			return c.Endpoint, lost(now)
		}
		if !now.Allowed(r.boot) {
			return now.Endpoint, r.why(now.Spot())
		}
		return now.Endpoint, nil
	}
	return directory.Endpoint{}, fmt.Errorf("it is this host itself, and no app %s of it waits since the directory was put back from a backup", app)
}

// takeable returns why an endpoint can't be taken over from a host.
func (r *Registrar) takeable(ctx context.Context, there directory.Endpoint, from string) error {
	if there.Owner != from {
		return fmt.Errorf("app %s is on host %s", there.App, there.Owner)
	}
	n, err := r.directory.Network(ctx, there.Network)
	if err != nil {
		return err
	}
	if r.private(there.Network) {
		return fmt.Errorf("network %s of this host is its own: it is not the installation's", there.Network)
	}
	space, err := r.local.Space(there.Network)
	if err != nil {
		return err
	}
	if space != n.Space() {
		return fmt.Errorf("network %s is %s in the installation, and %s on this host", n.Name, n.Prefix4, space.Prefix4)
	}
	for _, e := range r.local.Wanted() {
		// The copy that this host had when it owned the endpoint itself may be there.
		if sameApp, sameSpot := e.App == there.App, e.spot() == ownership.SpotOf(there); sameApp != sameSpot {
			return &membership.Error{
				Text:   fmt.Sprintf("app %s with endpoint %s is on this host", e.App, e.Addr4),
				Remedy: "save it with snapctl snapshot, and remove it; snapctl restore --as gives it another name",
			}
		}
	}
	return nil
}
