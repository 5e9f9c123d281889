package registrar

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

// Takeover takes an app's endpoint over, and keeps it.
func (r *Registrar) Takeover(ctx context.Context, app, from string) (directory.Endpoint, error) {
	done, err := r.enter(ctx)
	if err != nil {
		return directory.Endpoint{}, err
	}
	defer done()
	there, err := r.opt.Directory.LookupApp(ctx, app)
	if errors.Is(err, directory.ErrNotFound) {
		return there, fmt.Errorf("the installation has no app %s", app)
	}
	if err != nil {
		return there, err
	}
	e := there
	if there.Owner != r.opt.Self || there.TakenFrom != from {
		if err := r.takeable(ctx, there, from); err != nil {
			return there, err
		}
		if err := r.opt.Step(ctx, membership.TakeoverBegun); err != nil {
			return there, err
		}
		if e, err = r.session.Load().Takeover(ctx, there); err != nil {
			return there, err
		}
	}
	if c, ok := r.opt.Ledger.Get(ownership.SpotOf(e)); ok && c.Kept && c.Allowed(r.opt.Boot) && c.Endpoint.ID == e.ID {
		return e, nil
	}
	if err := r.opt.Step(ctx, membership.TakeoverTold); err != nil {
		return e, err
	}
	c := ownership.Copy{Endpoint: e, State: ownership.Owned, Kept: true, Restored: *r.restored.Load()}
	if err := r.opt.Ledger.Put(c); err != nil {
		return e, err
	}
	if err := r.opt.Step(ctx, membership.TakeoverKept); err != nil {
		return e, err
	}
	if err := r.confirm(ctx, r.session.Load(), []ownership.Copy{c}); err != nil {
		return e, err
	}
	r.Changed()
	return e, nil
}

// Recall makes an app's endpoint this host's again that was saved here before this boot, while the
// directory was put back from a backup: it does not tell whether another host took the endpoint over after
// the backup. Whoever calls it promises that none did.
func (r *Registrar) Recall(ctx context.Context, app string) (directory.Endpoint, error) {
	done, err := r.enter(ctx)
	if err != nil {
		return directory.Endpoint{}, err
	}
	defer done()
	s := r.session.Load()
	for _, c := range r.opt.Ledger.All() {
		if c.Endpoint.App == app && c.State == ownership.Lost {
			return c.Endpoint, Lost(c)
		}
		if c.Endpoint.App != app || c.State != ownership.Owned || c.Allowed(r.opt.Boot) {
			continue
		}
		if err := r.confirm(ctx, s, []ownership.Copy{c}); err != nil {
			return c.Endpoint, err
		}
		now, _ := r.opt.Ledger.Get(c.Spot())
		if now.State == ownership.Owned && !now.Allowed(r.opt.Boot) {
			now.State = ownership.Forgotten
			if err := r.opt.Ledger.Put(now); err != nil {
				return c.Endpoint, err
			}
			if err := r.reclaim(ctx, s); err != nil {
				return c.Endpoint, err
			}
			now, _ = r.opt.Ledger.Get(c.Spot())
		}
		if now.State == ownership.Lost {
			return c.Endpoint, Lost(now)
		}
		if !now.Allowed(r.opt.Boot) {
			return now.Endpoint, r.Why(now.Spot())
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
	if err := r.sameNetwork(ctx, there.Network); err != nil {
		return err
	}
	for _, e := range r.opt.Local.Wanted() {
		// The copy that this host had when it owned the endpoint itself may be there.
		if sameApp, sameSpot := e.App == there.App, e.Spot() == ownership.SpotOf(there); sameApp != sameSpot {
			return &membership.Error{
				Text:   fmt.Sprintf("app %s with endpoint %s is on this host", e.App, e.Addr4),
				Remedy: "save it with snapctl snapshot, and remove it; snapctl restore --as gives it another name",
			}
		}
	}
	return nil
}

// sameNetwork returns an error if a network of this host is not that of the installation.
func (r *Registrar) sameNetwork(ctx context.Context, network string) error {
	n, err := r.opt.Directory.Network(ctx, network)
	if err != nil {
		return err
	}
	if r.opt.Private(network) {
		return fmt.Errorf("network %s of this host is its own: it is not the installation's", network)
	}
	space, err := r.opt.Local.Space(network)
	if err != nil {
		return err
	}
	if space != n.Space() {
		return fmt.Errorf("network %s is %s in the installation, and %s on this host", n.Name, n.Prefix4, space.Prefix4)
	}
	return nil
}

// Lost says what became of an endpoint that is not this host's any more.
func Lost(c ownership.Copy) error {
	err := &directory.OwnerError{Mine: c.Endpoint, Now: c.Now}
	where := "it has ended there"
	if c.Now != nil {
		where = fmt.Sprintf("the app is on host %s now", c.Now.Owner)
	}
	return &membership.Error{
		Text: fmt.Sprintf("this copy of app %s stays stopped, and nothing of it is lost", c.Endpoint.App), Err: err,
		Remedy: fmt.Sprintf("%s; snapctl snapshot %[2]s saves this copy, and snapctl restore --as makes another app of it; snapctl rm --force %[2]s removes it", where, c.Endpoint.App),
	}
}
