package move

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/vem/pause"
)

// look is how often it is looked whether a move can be ended that an earlier daemon, or a directory that can't
// be reached, has left open.
const look = time.Second

// Keep ends moves that were left open, when it is known whose the endpoints are, and wakes apps that ran before
// they were to move. It returns when ctx ends.
func (m *Mover) Keep(ctx context.Context) {
	for pause.For(ctx, look, nil) {
		for _, a := range m.opt.Engine.Apps.List() {
			m.endMove(ctx, a)
		}
	}
}

func (m *Mover) endMove(ctx context.Context, a *engine.App) {
	rec, _ := a.Read()
	open := rec.Operation.Kind == m.depart.Name || rec.Operation.Kind == m.arrive.Name
	if resumes := rec.Resume && rec.Now() == app.Held; !open && !resumes || !a.Free() {
		return
	}
	err := m.decide(ctx, a)
	if err == nil && !a.Gone() {
		err = m.wakeAgain(ctx, a)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, errUndecided) {
		a.Note(err)
		m.opt.Log.ErrorContext(ctx, "end the move of an app", slog.String("app", a.Name()), slog.Any("error", err))
	}
}

// decide ends what is open of an app.
func (m *Mover) decide(ctx context.Context, a *engine.App) error {
	ctx, cancel := context.WithTimeout(ctx, engine.DefaultTimeout)
	defer cancel()
	release, err := m.opt.Engine.Turn(ctx, a, "move")
	if err == nil {
		release()
	}
	return err
}

// bringToDisk brings to the disk what is saved of a held app that was to be woken at once, and is not: see
// engine.Sleep. The caller has the app's turn.
func (m *Mover) bringToDisk(ctx context.Context, a *engine.App) error {
	saved, err := a.Hibernation().Manifest()
	if err != nil {
		return err
	}
	if err := a.Hibernation().Sync(ctx, saved, m.opt.Engine.Storage.Memory); err != nil {
		return err
	}
	return a.Change(func(rec *app.Record) { rec.Resume, rec.Volatile = false, false })
}

// Sweep removes snapshots that an earlier daemon made for a move. It is called before anything moves. They were not
// brought to the disk, so that one may be damaged after a power failure: it is known by its name then.
func (m *Mover) Sweep(ctx context.Context) {
	names, err := m.opt.Engine.Store.Names()
	if err != nil {
		m.opt.Log.ErrorContext(ctx, "look for snapshots of moves", slog.Any("error", err))
		return
	}
	for _, name := range names {
		_, s, err := m.opt.Engine.Store.Find(name)
		if err == nil && s.Passing || err != nil && !errdefs.IsNotFound(err) && journeyOf(name) != "" {
			m.remove(ctx, name)
		}
	}
}
