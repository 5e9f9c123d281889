package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/vem"
)

// release lets go of all that is held of the app, here and in the holder.
func (a *App) release(ctx context.Context) error {
	return errors.Join(a.Endpoint.Release(ctx), a.Box.DropIPC())
}

// reclaim gets the held sockets from the holder after a restart of the daemon. If the holder
// has none, the app has lost them. The app can be woken all the same: CRIU then makes its
// sockets anew, without their connections.
func (a *App) reclaim(ctx context.Context) error {
	rec, _ := a.Read()
	return a.Endpoint.Reclaim(ctx, rec.Boot)
}

// LostError is a held app without its sockets.
type LostError struct {
	App    string
	Reason vem.Loss
}

func (e *LostError) Error() string {
	return fmt.Sprintf("the sockets of app %s are lost: %s: no traffic wakes it, and when it is woken its connections are reset", e.App, e.Reason)
}

// whatIsLost returns a *LostError if the app has lost its sockets.
func (a *App) whatIsLost() error {
	why := a.Endpoint.Lost()
	if why == "" {
		return nil
	}
	return &LostError{App: a.Name(), Reason: why}
}
