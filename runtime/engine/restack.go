package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/vem/hold"
)

// A snapshot of a held app, or of one that has ended, takes the app's files as they are: the directory of its
// writes gets the name of a layer, and the app another, empty one above it.
//
//	files described -> layer recorded -> root unmounted -> directory renamed ->
//	layer recorded as below -> root mounted again -> files of several names linked again
//
// If a restack stops half-way, settleRestack finishes or undoes it before the root is mounted
// again for anything else: until then the app's files may be in no layer that the record names.
//
// All of what the app wrote since its last layer is read once, for the digests. Files that are
// still in use are copied instead of moved, see pinsRoot and sandbox.InUse.

// restack makes what an app without processes wrote a layer below its files, and returns the
// layers that the app has then, those that are new among them marked as own. It
// returns false if the files have to be copied. The caller has the app's turn.
func (eng *Engine) restack(ctx context.Context, a *App) (_ []layer.Ref, ok bool, err error) {
	if err := eng.settleRestack(ctx, a); err != nil { // of an earlier one that could not be recorded
		return nil, false, err
	}
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
	if err := a.Change(func(r *app.Record) { r.Restacking = &below }); err != nil {
		return nil, false, err
	}
	ctx = context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, eng.settleRestack(ctx, a)) }()
	if err := fault.Point(ctx, fault.RestackAfterRecord); err != nil {
		return nil, false, err
	}
	// Whatever has a file there open could change it later.
	if err := a.Box.UnmountRoot(); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return nil, false, nil
		}
		return nil, false, err
	}
	a.ready = false
	if used, err := a.Box.InUse(ctx); err != nil || used {
		return nil, false, err
	}
	if err := added.Layer.Place(); err != nil {
		return nil, false, err
	}
	if err := fault.Point(ctx, fault.RestackAfterMove); err != nil {
		return nil, false, err
	}
	if err := eng.settleRestack(ctx, a); err != nil {
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

// settleRestack finishes a restack whose files have become a layer, undoes another
// one, and mounts the root of an app that is to go on.
func (eng *Engine) settleRestack(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	if rec.Restacking == nil && !rec.Relinking {
		return nil
	}
	var ferr error
	if rec.Restacking != nil {
		placed, err := eng.Storage.Layers.Settle(*rec.Restacking, a.Box.Upper())
		if err != nil {
			return fmt.Errorf("app %s: %w", rec.Name, err)
		}
		err = a.Change(func(r *app.Record) {
			if placed {
				r.Layers = slices.Insert(slices.Clone(r.Layers), 0, *r.Restacking)
				// One that has ended never uses its files again.
				r.Relinking = r.Restacking.Linked && r.Status != app.Stopped
			}
			r.Restacking = nil
		})
		if err != nil {
			return err
		}
		if placed {
			ferr = fault.Point(ctx, fault.RestackAfterSwitch)
		}
	}
	a.ready = false
	if rec.Status == app.Stopped {
		return ferr
	}
	return errors.Join(ferr, eng.remount(ctx, a))
}

// remount mounts the root of a held app whose own files have become a layer, and copies
// those of several names again: see [relink.Files].
func (eng *Engine) remount(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	if rec.Relinking { // an attempt that was interrupted has left some that are not linked
		if err := errors.Join(a.Box.UnmountRoot(), os.RemoveAll(a.Box.Upper())); err != nil {
			return err
		}
	}
	ns, err := eng.makeSandbox(ctx, a)
	if err != nil {
		return err
	}
	if err := ns.Close(); err != nil || !rec.Relinking {
		return err
	}
	if err := eng.relink(ctx, a); err != nil {
		a.ready = false
		return err
	}
	return a.Change(func(r *app.Record) { r.Relinking = false })
}

// relink keeps files of several names in the layers of an app one file each.
func (eng *Engine) relink(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	return eng.Storage.Relink(ctx, rec.Layers, a.Box.Root())
}
