package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/vem"
)

// Enroll gives a new app its name and endpoint, takes its turn and begins the operation that makes
// it, which is of a [Engine.BirthKind]: the record is on the disk when Enroll returns. If Enroll
// fails nothing is left of the app; if the operation fails, neither.
//
// An app whose record names a pool is going to stand ready: others get its endpoint if they ask
// for it. The endpoint of an app that only stands ready is given up for another one, see vacate.
// Returns an errdefs.ErrAlreadyExists if the name, the address or a port is taken.
func (eng *Engine) Enroll(ctx context.Context, rec app.Record, k *Kind, op *event.Operation) (_ *Run, release func(), err error) {
	asked := rec.Addr4
	r, release, err := eng.enrollAs(ctx, &rec, k, op)
	for {
		from, ok := errors.AsType[*vem.SpareError](err)
		if !ok {
			return r, release, err
		}
		r, release, err = eng.vacate(ctx, from, &rec, k, op)
		if errors.Is(err, errdefs.ErrAlreadyExists) && !asked.IsValid() { // it was handed out meanwhile
			rec.Addr4 = asked
			r, release, err = eng.enrollAs(ctx, &rec, k, op)
		}
	}
}

// enrollAs enrolls an app. Its name, its address and ports, and its directory are reserved one
// after the other, and given back if it fails. Returns a *vem.SpareError if the address has to
// be given up first by an app that stands ready.
func (eng *Engine) enrollAs(ctx context.Context, rec *app.Record, k *Kind, op *event.Operation) (r *Run, release func(), err error) {
	if rec.Template == "" { // a request for clones has reserved the names of all
		free, err := eng.Apps.Reserve(rec.Name)
		if err != nil {
			return nil, nil, err
		}
		defer free()
	}
	spare, enrolled := eng.spare(rec)
	var a *App
	defer func() {
		if err != nil {
			a = nil
		}
		enrolled(a)
	}()
	end, err := eng.claim(ctx, rec, spare)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			end.Free()
		}
	}()
	a = eng.newApp(*rec)
	a.Endpoint = end
	if err := a.Box.Cgroup().Claim(); err != nil { // before anything is undone by ending what is there
		return nil, nil, app.Refusef("make app %s: %w", rec.Name, err)
	}
	if err := os.Mkdir(a.Dir(), 0o700); err != nil {
		return nil, nil, fmt.Errorf("make app directory: %w", err)
	}
	if release, err = a.Take(ctx, k.Doing); err != nil {
		return nil, nil, errors.Join(err, os.Remove(a.Dir()))
	}
	a.Amend(func(r *app.Record) { r.CreatedAt = time.Now() })
	if r, err = k.Begin(a, op); err != nil {
		release()
		return nil, nil, errors.Join(err, os.RemoveAll(a.Dir()))
	}
	eng.Apps.Add(a)
	return r, release, nil
}

// A ready clone has an address that it does not use yet. If a new app asks for this
// address, or if no other address is free, the ready clone is removed and its address goes
// to the new app. Until then the address is reserved: the pool is refilled at the same time
// and would take it again.

// vacate removes the ready clone that has the address, and enrolls the app of rec with the
// address.
func (eng *Engine) vacate(ctx context.Context, from *vem.SpareError, rec *app.Record, k *Kind, op *event.Operation) (_ *Run, release func(), err error) {
	defer eng.readyGone()
	defer from.Done()
	if err := from.GiveUp(ctx); err != nil {
		return nil, nil, err
	}
	rec.Addr4 = from.Addr
	return eng.enrollAs(ctx, rec, k, op)
}
