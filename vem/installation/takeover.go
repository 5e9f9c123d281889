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
	if !r.Begun() {
		return ownership.Taken{}, fmt.Errorf("the directory must be reached first: %w", directory.ErrUnavailable)
	}
	if from == i.Identity().Host() {
		e, err := r.Recall(ctx, app)
		return ownership.Taken{App: app, Network: e.Network, Addr: e.Addr, Epoch: e.Epoch, From: from, By: i.Identity().Host()}, err
	}
	if _, err := d.Host(ctx, from); err != nil {
		return ownership.Taken{}, err
	}
	e, err := r.Takeover(ctx, app, from)
	return ownership.Taken{App: app, Network: e.Network, Addr: e.Addr, Epoch: e.Epoch, From: from, By: i.Identity().Host()}, err
}
