package installation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/registrar"
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
	c, ok := i.ledger.Get(e.Spot())
	if !ok || c.Endpoint.App != e.App || c.Allowed(i.opt.Boot) || i.Identity() == nil || i.IsPrivate(e.Network) {
		return nil
	}
	if c.State == ownership.Lost {
		return registrar.Lost(c)
	}
	if r := i.registrar(); r.Begun() && c.State == ownership.Owned {
		return &membership.Error{
			Text:   fmt.Sprintf("app %s was saved before this boot of the host, and the directory was put back from a backup meanwhile: it does not tell whether another host has taken endpoint %s over", e.App, e.Addr4),
			Remedy: fmt.Sprintf("if no other host has taken it over since the backup: snapctl host takeover %s --from %s", e.App, i.Identity().Host()),
		}
	}
	doubt := "whether its endpoint %s is still this host's is not known until the directory is reached"
	if i.registrar().Begun() {
		doubt = "the directory does not say that its endpoint %s is this host's"
	}
	return i.unconfirmed(fmt.Sprintf("app %s was saved before this boot of the host: "+doubt, e.App, e.Addr4), e)
}

// registrar is nil before the directory was reached.
func (i *Installation) registrar() *registrar.Registrar {
	p := i.part.Load()
	if p == nil {
		return nil
	}
	return p.registrar.Load()
}

// unconfirmed says what can't be done without the directory, and where that is looked for.
func (i *Installation) unconfirmed(text string, e Endpoint) error {
	var why error
	if r := i.registrar(); r != nil {
		why = r.Why(e.Spot())
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
	c, ok := i.ledger.Get(e.Spot())
	r := i.registrar()
	switch {
	case c.State == ownership.Arriving && c.Endpoint.App == e.App: // the other host has it as yet
		return nil
	case !asked && !ok:
		if r == nil {
			return nil
		}
		return r.NameIsFree(e)
	case r.Begun():
		err := r.Claim(ctx, e)
		if errors.Is(err, directory.ErrUnavailable) {
			return &membership.Error{Text: err.Error(), Remedy: i.seek()}
		}
		return err
	case ok && c.Endpoint.App == e.App && c.Allowed(i.opt.Boot):
		return nil
	}
	return i.unconfirmed(fmt.Sprintf("app %s can't have endpoint %s before the directory is reached", e.App, e.Addr4), e)
}
