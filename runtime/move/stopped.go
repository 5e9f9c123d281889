package move

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/journal"
)

// An app that is stopped has files, an address that is kept for it on its host, and nothing in the directory:
// nobody reaches it. It moves as one that is held does, without sockets and images. So that the directory says
// on which of the two hosts it is, its endpoint is claimed before it departs. It stays claimed on the target, as
// long as the app is there: the address is one that the host gives out which the app is from.

// status is the one that the app has when it departs.
func (f *farewell) status() app.Status {
	if f.ended {
		return app.Stopped
	}
	return app.Held
}

// keepAddress has the directory know of the endpoint of a stopped app.
func (m *Mover) keepAddress(ctx context.Context, a *engine.App) error {
	reg, err := m.registrar()
	if err != nil {
		return err
	}
	a.Endpoint.Keep()
	if err := reg.Keep(ctx, spotOf(a), a.Name()); err != nil {
		return fmt.Errorf("have the directory know its endpoint: %w", err)
	}
	a.Amend(func(rec *app.Record) { rec.KeepsAddress = true }) // the departure writes it
	return nil
}

// handNothingOver is handOver of an app that has no sockets.
func (f *farewell) handNothingOver(ctx context.Context, r *engine.Run) error {
	if err := f.talk.sayBytes(nil); err != nil {
		return err
	}
	if err := f.talk.acknowledged(); err != nil {
		return err
	}
	return r.At(ctx, "given")
}

// settleStopped has an app be stopped at this host whose endpoint is this host's.
func (m *Mover) settleStopped(ctx context.Context, r *engine.Run) error {
	a := r.Subject
	a.Endpoint.Keep()
	if err := errors.Join(a.Endpoint.Shut(ctx), a.Box.Remove()); err != nil {
		return err
	}
	return errors.Join(a.Settle(app.Stopped, journal.Forever, func(*app.Record) {}), r.Close())
}
