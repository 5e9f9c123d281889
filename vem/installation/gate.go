package installation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

// Kept returns the addresses of a network that are not free on this host though no app here has
// them, each with the app that may have it: empty for nobody.
func (i *Installation) Kept(network string) map[netip.Addr]string {
	if i.IsPrivate(network) {
		return nil
	}
	var kept map[netip.Addr]string
	for _, c := range i.ledger.All() {
		if c.Endpoint.Network != network {
			continue
		}
		if kept == nil {
			kept = make(map[netip.Addr]string)
		}
		if kept[c.Endpoint.Addr] = ""; c.Kept {
			kept[c.Endpoint.Addr] = c.Endpoint.App
		}
	}
	return kept
}

// Admit returns why an endpoint of this host may not be in its network, nil if it may be. It does
// not wait. The error is a [*membership.Error].
func (i *Installation) Admit(e Endpoint) error {
	c, ok := i.ledger.Get(e.spot())
	if !ok || c.Endpoint.App != e.App || c.Allowed(i.opt.Boot) || i.Identity() == nil || i.IsPrivate(e.Network) {
		return nil
	}
	if c.State == ownership.Lost {
		return lost(c)
	}
	if r := i.registrar(); r.begun() && c.State == ownership.Owned {
		return &membership.Error{
			Text:   fmt.Sprintf("app %s was saved before this boot of the host, and the directory was put back from a backup meanwhile: it does not tell whether another host has taken endpoint %s over", e.App, e.Addr4),
			Remedy: fmt.Sprintf("if no other host has taken it over since the backup: snapctl host takeover %s --from %s", e.App, r.self),
		}
	}
	doubt := "whether its endpoint %s is still this host's is not known until the directory is reached"
	if i.registrar().begun() {
		doubt = "the directory does not say that its endpoint %s is this host's"
	}
	return i.unconfirmed(fmt.Sprintf("app %s was saved before this boot of the host: "+doubt, e.App, e.Addr4), e)
}

// registrar is nil before the directory was reached.
func (i *Installation) registrar() *Registrar {
	p := i.part.Load()
	if p == nil {
		return nil
	}
	return p.registrar.Load()
}

// begun tells whether this host can write into the directory.
func (r *Registrar) begun() bool { return r != nil && r.session.Load() != nil }

// lost says what became of an endpoint that is not this host's any more.
func lost(c ownership.Copy) error {
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

// unconfirmed says what can't be done without the directory, and where that is looked for.
func (i *Installation) unconfirmed(text string, e Endpoint) error {
	var why error
	if r := i.registrar(); r != nil {
		why = r.why(e.spot())
	} else if t := i.trouble.Load(); t != nil {
		why = *t
	}
	return &membership.Error{Text: text, Err: why, Remedy: i.seek()}
}

// seek says what to do when the directory is not reached.
func (i *Installation) seek() string {
	return "the directory is looked for at " + strings.Join(i.DirectoryURLs(), ", ") + ": when it is reached from this host, what waits for it goes on by itself"
}

// Claim sees to it that a new endpoint may be this host's, before its app is made. An endpoint
// whose address was asked for is claimed at once, and that takes the directory, unless this host
// has it already. Other addresses are those that this host may give out: they are claimed later.
//
// Returns a [*directory.TakenError] if an app of another host has the address, a
// [*directory.NameError] if another app is known to have the name, a [*directory.BlockError] if
// another host gives the address out, and a [*membership.Error] if the directory can't be reached.
func (i *Installation) Claim(ctx context.Context, e Endpoint, asked bool) error {
	if i.Identity() == nil || i.IsPrivate(e.Network) {
		return nil
	}
	c, ok := i.ledger.Get(e.spot())
	r := i.registrar()
	switch {
	case !asked && !ok:
		if r == nil {
			return nil
		}
		return r.nameIsFree(e)
	case r.begun():
		err := r.claim(ctx, e)
		if errors.Is(err, directory.ErrUnavailable) {
			return &membership.Error{Text: err.Error(), Remedy: i.seek()}
		}
		return err
	case ok && c.Endpoint.App == e.App && c.Allowed(i.opt.Boot):
		return nil
	}
	return i.unconfirmed(fmt.Sprintf("app %s can't have endpoint %s before the directory is reached", e.App, e.Addr4), e)
}

// nameIsFree returns an error if an app of this name is known to be on another host.
func (r *Registrar) nameIsFree(e Endpoint) error {
	for _, other := range r.cache.Endpoints() {
		if other.App == e.App && other.Owner != r.self {
			return &directory.NameError{App: e.App, Network: other.Network, Addr: other.Addr}
		}
	}
	return nil
}

// claim claims one endpoint.
func (r *Registrar) claim(ctx context.Context, e Endpoint) error {
	done, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := r.session.Load()
	was, ok := r.ledger.Get(e.spot())
	if ok && was.Endpoint.App == e.App && was.State != ownership.Lost {
		if !was.Allowed(r.boot) {
			if err := r.confirm(ctx, s, []ownership.Copy{was}); err != nil {
				return err
			}
		}
		if was, _ = r.ledger.Get(e.spot()); was.Allowed(r.boot) {
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

func (r *Registrar) claimNew(ctx context.Context, s *directory.Session, e Endpoint) error {
	was, ok := r.ledger.Get(e.spot())
	c := ownership.Copy{Endpoint: directory.Endpoint{
		Network: e.Network, Addr: e.Addr4, ID: rand.Text(), App: e.App, Owner: r.self, Epoch: 1, State: directory.Running,
		Ports: e.Ports,
	}, State: ownership.Claiming, Restored: *r.restored.Load()}
	// Another host could give the address out, and not know of this app while it can't reach the
	// directory.
	if _, err := s.LeaseBlockOf(ctx, e.Network, e.Addr4, time.Now()); err != nil {
		return err
	}
	r.Changed() // it gives addresses of that block out, too
	if err := r.ledger.Put(c); err != nil {
		return err
	}
	o := s.Claim(ctx, endpoints([]ownership.Copy{c}))[0]
	if err := r.claimed(c, o); err != nil || o.Err == nil {
		return err // it may have happened: then it is released when the endpoint is gone
	}
	var err error
	if ok {
		err = r.ledger.Put(was)
	} else {
		err = r.ledger.Drop(c.Spot())
	}
	return errors.Join(o.Err, err)
}
