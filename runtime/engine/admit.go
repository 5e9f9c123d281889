package engine

import (
	"context"
	"errors"
	"log/slog"

	"github.com/snapctl/snapctl/runtime/app"
)

// await waits for what wakes a held app, unless its endpoint may not be in its network. It returns
// what there is to be told of the app: that, or that its sockets are lost.
func (eng *Engine) await(ctx context.Context, a *App) error {
	if err := a.Endpoint.Admitted(); err != nil {
		return err
	}
	eng.Arm(ctx, a)
	return a.Endpoint.WhatIsLost()
}

// connects tells whether the app is to be in its network.
func (a *App) connects() bool {
	s := a.Status()
	return s == app.Running || s == app.Held
}

// Readmit has an app go by what the gate of the VEM says now, see [vem.Gate]: if its endpoint may be
// in its network it gets there, and can be woken by traffic; if not, the app is cut off, and nothing
// wakes it. Nothing else happens to it: it keeps its processes, or its images. The app is told why.
func (eng *Engine) Readmit(ctx context.Context, a *App) {
	if !a.connects() || a.Endpoint.Admitted() == nil && a.Endpoint.Present() {
		return
	}
	release, err := eng.Turn(ctx, a, "connect")
	if err == nil {
		err = eng.readmit(ctx, a)
		release()
	}
	if err != nil && ctx.Err() == nil {
		a.Note(err)
		eng.log.ErrorContext(ctx, "an app is not in its network", slog.String("app", a.Name()), slog.Any("error", err))
	}
}

// readmit is Readmit in the app's turn.
func (eng *Engine) readmit(ctx context.Context, a *App) error {
	if !a.connects() {
		return nil
	}
	if refused := a.Endpoint.Admitted(); refused != nil {
		a.ready = false
		return errors.Join(refused, a.Endpoint.Disarm(), a.Endpoint.Shut(ctx))
	}
	if err := eng.Reopen(ctx, a); err != nil {
		return err
	}
	a.Note(nil)
	if a.Status() != app.Held {
		return nil
	}
	return eng.await(ctx, a)
}
