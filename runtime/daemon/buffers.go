package daemon

import (
	"context"
	"fmt"
	"log/slog"
)

// narrow gives the datagram sockets of an app that is about to run their own receive
// buffers back, and tells which have lost datagrams while it slept.
func (d *Daemon) narrow(ctx context.Context, a *App) error {
	if a.held == nil {
		return nil
	}
	lost, err := a.held.Lost()
	if err != nil { // what is lost is lost: no reason not to wake
		d.log.ErrorContext(ctx, "look for lost datagrams", slog.String("app", a.Name()), slog.Any("error", err))
	}
	for _, l := range lost {
		a.Remark(fmt.Sprintf("%d datagrams to %s were lost while the app slept: the socket's buffer was full", l.Count, l.Socket.Local),
			"have datagrams wake it (--wake on-data), or wake it in time")
	}
	return a.held.Narrow()
}

// narrowAgain does the same for an app whose hibernation is undone. A later daemon may do
// that, which has no descriptors of the app's sockets.
func (d *Daemon) narrowAgain(ctx context.Context, a *App) error {
	if a.held == nil {
		if err := d.reclaim(ctx, a); err != nil || a.held == nil {
			return err // it died before the holder had them, and so before they had other buffers
		}
	}
	return a.held.Narrow()
}
