package engine

import (
	"context"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/vem"
)

// An app whose record names a pool stands ready, or is going to: see package birth. Nobody has
// asked for it yet, so its endpoint is a spare one: whoever asks for it gets it, see vacate.

// DropReady ends an app that stands ready, and removes all there is of it, unless it was handed
// out meanwhile.
func (eng *Engine) DropReady(ctx context.Context, a *App) error {
	release, err := a.Take(ctx, "rm")
	if err != nil {
		return err
	}
	defer release()
	if rec, _ := a.Read(); rec.Pool == "" {
		return nil
	}
	return eng.Expunge(context.WithoutCancel(ctx), a)
}

// spare is how others get the endpoint of an app that is being enrolled and is going to stand
// ready; nil for another app. enrolled is told the app, or nil if it could not be enrolled: until
// then whoever wants the endpoint waits.
func (eng *Engine) spare(rec *app.Record) (_ *vem.Spare, enrolled func(*App)) {
	if rec.Pool == "" {
		return nil, func(*App) {}
	}
	var ready *App
	done := make(chan struct{})
	giveUp := func(ctx context.Context) error {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if ready == nil {
			return nil
		}
		return eng.DropReady(ctx, ready)
	}
	return &vem.Spare{GiveUp: giveUp}, func(a *App) {
		ready = a
		close(done)
	}
}
