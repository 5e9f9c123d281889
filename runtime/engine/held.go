package engine

import (
	"context"
	"errors"
)

// release lets go of all that is held of the app, here and in the holder.
func (a *App) release(ctx context.Context) error {
	return errors.Join(a.Endpoint.Release(ctx), a.Box.DropIPC())
}

// Reclaim gets the held sockets from the holder after a restart of the daemon. If the holder
// has none, the app has lost them. The app can be woken all the same: CRIU then makes its
// sockets anew, without their connections.
func (a *App) Reclaim(ctx context.Context) error {
	rec, _ := a.Read()
	return a.Endpoint.Reclaim(ctx, rec.Boot)
}
