package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
)

// Kind is one kind of operation on an app.
type Kind = journal.Kind[*App]

// Run is an operation on an app that goes on.
type Run = journal.Run[*App]

// kinds are the operations of an engine. Each is made in the file of its operation.
type kinds struct {
	run, hibernate, wake, snapshot, save, restack, remove *Kind

	byName map[string]*Kind // all of them, and those of rooms above, see Know
}

func (eng *Engine) makeKinds() kinds {
	k := kinds{
		run: eng.BirthKind(runTable), hibernate: eng.hibernateKind(), wake: eng.wakeKind(),
		snapshot: eng.snapshotKind(), save: eng.saveKind(), restack: eng.restackKind(), remove: eng.removeKind(),
		byName: make(map[string]*Kind),
	}
	k.know(eng.log, k.run, k.hibernate, k.wake, k.snapshot, k.save, k.restack, k.remove)
	return k
}

// know has kinds found by the names that records have of them.
func (k *kinds) know(log *slog.Logger, all ...*Kind) {
	for _, kind := range all {
		kind.Log = log
		k.byName[kind.Name] = kind
	}
}

// Know has the engine end operations of these kinds too which it finds open: those that a room
// above does to apps. It sets their log. It is called before [Engine.Recover] and before any of
// them begins.
func (eng *Engine) Know(all ...*Kind) { eng.kinds.know(eng.log, all...) }

// Operations are the tables of what the engine does. That of the removal is the last.
func Operations() []journal.Table {
	return []journal.Table{runTable, hibernateTable, wakeTable, snapshotTable, saveTable, restackTable, removeTable}
}

// BirthKind is the kind of an operation that makes an app: it is undone by removing what there
// is of the app.
func (eng *Engine) BirthKind(t journal.Table) *Kind {
	return &Kind{Table: t, Undo: func(ctx context.Context, r *Run) error { return eng.Expunge(ctx, r.Subject) }}
}

// Turn takes an app's turn. What an earlier operation has left open is ended first.
func (eng *Engine) Turn(ctx context.Context, a *App, what string) (release func(), err error) {
	release, err = a.Take(ctx, what)
	if err != nil {
		return nil, err
	}
	if err = eng.endOpen(ctx, a); err == nil && a.Gone() {
		err = fmt.Errorf("app %s: %w", a.Name(), errdefs.ErrNotFound)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// begin begins an operation on an app that is there. The caller has the app's turn.
func (eng *Engine) begin(k *Kind, a *App, op *event.Operation) (*Run, error) {
	if err := a.allows(k); err != nil {
		return nil, err
	}
	return k.Begin(a, op)
}

// allows returns an *app.StatusError if an operation can't be done to the app as it is.
func (a *App) allows(k *Kind) error {
	rec, _ := a.Read()
	if !slices.Contains(k.From, string(rec.Status)) {
		return &app.StatusError{App: rec.Name, Status: rec.Now(), Done: k.Done}
	}
	return nil
}

// endOpen ends the operation that is open by the app's record: an earlier daemon was killed in
// it, or it could neither be undone nor be finished. The caller has the app's turn.
func (eng *Engine) endOpen(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	if !rec.Operation.Open() || a.Gone() {
		return nil
	}
	k, ok := eng.kinds.byName[rec.Operation.Kind]
	if !ok {
		return fmt.Errorf("app %s is in the middle of an operation that this snapctld does not know: %s", rec.Name, rec.Operation.Kind)
	}
	return k.Recover(ctx, a, rec.Operation)
}
