package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/snapctl/snapctl/vem/netns"
)

// Prepare makes the app's sandbox and attaches it to its network. Both may
// exist. The caller closes the namespace.
func (eng *Engine) Prepare(ctx context.Context, a *App) (_ *netns.NS, err error) {
	ns, err := eng.Enclose(ctx, a)
	if err != nil {
		return nil, err
	}
	err = a.Box.Furnish(ctx)
	if err == nil {
		err = a.Endpoint.Attach(ctx, ns)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	a.ready = true
	return ns, nil
}

// Reopen is Prepare for an app that was there before: if its endpoint may not be in its network,
// it gets all but that.
func (eng *Engine) Reopen(ctx context.Context, a *App) error {
	if a.Endpoint.Admitted() == nil {
		ns, err := eng.Prepare(ctx, a)
		if err != nil {
			return err
		}
		return ns.Close()
	}
	a.ready = false
	ns, err := eng.Enclose(ctx, a)
	if err != nil {
		return err
	}
	return errors.Join(ns.Close(), a.Box.Furnish(ctx), a.Endpoint.Shut(ctx))
}

// Enclose makes the part of the app's sandbox that processes are started in, and the
// work directory; both may exist. The caller closes the namespace.
func (eng *Engine) Enclose(ctx context.Context, a *App) (*netns.NS, error) {
	ns, err := a.Box.Enclose(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.work(), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make work directory: %w", err), ns.Close())
	}
	return ns, nil
}

// Prepared opens the network namespace of an app's sandbox. It trusts a sandbox that this
// daemon has prepared and not taken down since: to look at all devices, routes and rules again
// costs 5 to 10 ms, for which traffic would wait on a wake. After a failed wake, a take-down or
// a restart of the daemon it prepares the sandbox again.
func (eng *Engine) Prepared(ctx context.Context, a *App) (*netns.NS, error) {
	if a.ready {
		if ns, err := netns.Open(a.Box.NetPath()); err == nil {
			return ns, nil
		}
	}
	return eng.Prepare(ctx, a)
}

// takeDown removes the app's network and sandbox; its processes have ended.
func (eng *Engine) takeDown(ctx context.Context, a *App) error {
	return errors.Join(a.detach(ctx), a.Box.Remove())
}

// detach takes the app out of its network.
func (a *App) detach(ctx context.Context) error {
	a.ready = false
	return a.Endpoint.Detach(ctx)
}
