package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/vem/hold"
)

// A snapshot of a held app, or of one that has ended, takes the app's files as they are: the directory of its
// writes gets the name of a layer, and the app another, empty one above it.
//
//	files described -> layer recorded -> root unmounted -> directory renamed ->
//	layer recorded as below -> root mounted again -> files of several names linked again
//
// A restack that stops half-way is finished or undone before anything else is done with the
// app: until then its files may be in no layer that the record names.
//
// All of what the app wrote since its last layer is read once, for the digests. Files that are
// still in use are copied instead of moved, see pinsRoot and sandbox.InUse.

var restackTable = journal.Table{
	Name: "restack", Done: "saved", From: []string{string(app.Held), string(app.Stopped)}, Part: true,
	Steps: []journal.Step{
		{Name: "begun", Means: "the layer is recorded that the app's files become", Keep: journal.Forever},
		{Name: "placed", Means: "they are the layer", Commits: true},
		{Name: "switched", Means: "the app is recorded to have it below its files, its root is not mounted", Keep: journal.Forever, Must: true},
		{Name: "linked", Means: "its root is mounted, files of several names are one file each", Keep: journal.Forever, Must: true, Ends: journal.Same},
	},
}

func (eng *Engine) restackKind() *Kind {
	return &Kind{Table: restackTable, Committed: eng.isRestacked, Undo: eng.undoRestack, Finish: eng.finishRestack}
}

// errInUse is that the app's files have to be copied: something may still change them.
var errInUse = errors.New("the app's files are in use")

// restack makes what an app without processes wrote a layer below its files, and returns the
// layers that the app has then, those that are new among them marked as own. It
// returns false if the files have to be copied. The caller has the app's turn.
func (eng *Engine) restack(ctx context.Context, a *App) (_ []layer.Ref, ok bool, err error) {
	rec, _ := a.Read()
	if rec.Status == app.Held && a.pinsRoot() {
		return nil, false, nil
	}
	added, ok, err := eng.Storage.Add(ctx, stackOf(&rec), a.Box.Upper(), a.Box.Stackable)
	if err != nil || !ok {
		return nil, false, err
	}
	if added.Layer == nil { // nothing since the last one
		return added.All, true, nil
	}
	fresh := added.All[:1]
	eng.Storage.Layers.Pin(fresh)
	defer eng.Storage.Layers.Unpin(fresh)
	below := fresh[0]
	below.Own = false
	a.Amend(func(rec *app.Record) { rec.Restacking = &below })
	r, err := eng.kinds.restack.Begin(a, nil)
	if err != nil {
		a.Amend(func(rec *app.Record) { rec.Restacking = nil })
		return nil, false, err
	}
	err = r.Do(context.WithoutCancel(ctx), func(ctx context.Context) error {
		// Whatever has a file there open could change it later.
		if err := a.Box.UnmountRoot(); err != nil {
			if errors.Is(err, unix.EBUSY) {
				return errInUse
			}
			return err
		}
		a.ready = false
		if used, err := a.Box.InUse(ctx); err != nil {
			return err
		} else if used {
			return errInUse
		}
		if err := added.Layer.Place(); err != nil {
			return err
		}
		if err := r.At(ctx, "placed"); err != nil {
			return err
		}
		return eng.finishRestack(ctx, r)
	})
	if err != nil {
		if rec, _ := a.Read(); errors.Is(err, errInUse) && !rec.Operation.Open() { // it is undone
			return nil, false, nil
		}
		return nil, false, err
	}
	return added.All, true, nil
}

// pinsRoot tells whether something that a held app has may keep its root in use after the
// unmount. A unix socket does so by its path, and may have open files in its queue. An inotify
// instance would be told of the unmount.
func (a *App) pinsRoot() bool {
	held := a.Endpoint.Held()
	if held == nil {
		return a.Endpoint.Lost() == "" // what is held is not known
	}
	for i := range held.Sockets {
		if held.Sockets[i].Family == unix.AF_UNIX {
			return true
		}
	}
	return slices.ContainsFunc(held.Objects, func(o hold.Object) bool { return o.Kind != hold.Eventfd && o.Kind != hold.File })
}

// isRestacked finishes or undoes what was being moved, and tells whether the app's files are
// the layer.
func (eng *Engine) isRestacked(_ context.Context, r *Run) (bool, error) {
	rec, _ := r.Subject.Read()
	if rec.Restacking == nil {
		return true, nil
	}
	placed, err := eng.Storage.Layers.Settle(*rec.Restacking, r.Subject.Box.Upper())
	if err != nil {
		return false, fmt.Errorf("app %s: %w", rec.Name, err)
	}
	return placed, nil
}

// undoRestack mounts the root of an app again whose files have become no layer.
func (eng *Engine) undoRestack(ctx context.Context, r *Run) error {
	a := r.Subject
	a.Amend(func(rec *app.Record) { rec.Restacking = nil })
	if err := eng.remount(ctx, a); err != nil {
		return err
	}
	return r.Close()
}

// finishRestack records that the app's files are a layer below, and mounts the root of an app
// that is to go on.
func (eng *Engine) finishRestack(ctx context.Context, r *Run) error {
	a := r.Subject
	if rec, _ := a.Read(); rec.Restacking != nil {
		a.Amend(func(rec *app.Record) {
			rec.Layers = slices.Insert(slices.Clone(rec.Layers), 0, *rec.Restacking)
			// One that has ended never uses its files again.
			rec.Relinking = rec.Restacking.Linked && rec.Status != app.Stopped
			rec.Restacking = nil
		})
		if err := r.At(ctx, "switched"); err != nil {
			return err
		}
	}
	if err := eng.remount(ctx, a); err != nil {
		return err
	}
	a.Amend(func(rec *app.Record) { rec.Relinking = false })
	return r.At(ctx, "linked")
}

// remount mounts the root of a held app, and, if its own files have become a layer, copies
// those of several names again: see [relink.Files].
func (eng *Engine) remount(ctx context.Context, a *App) error {
	a.ready = false
	rec, _ := a.Read()
	if rec.Status == app.Stopped {
		return nil
	}
	if rec.Relinking { // an attempt that was interrupted has left some that are not linked
		if err := errors.Join(a.Box.UnmountRoot(), os.RemoveAll(a.Box.Upper())); err != nil {
			return err
		}
	}
	if err := eng.Reopen(ctx, a); err != nil || !rec.Relinking {
		return err
	}
	if err := eng.Relink(ctx, a); err != nil {
		a.ready = false
		return err
	}
	return nil
}

// Relink keeps files of several names in the layers of an app one file each.
func (eng *Engine) Relink(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	return eng.Storage.Relink(ctx, rec.Layers, a.Box.Root())
}
