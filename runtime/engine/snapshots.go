package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

var snapshotTable = journal.Table{
	Name: "snapshot", Doing: string(app.Snapshotting), Done: "saved", From: []string{string(app.Running)},
	Steps: []journal.Step{
		{Name: "begun", Means: "the intent is recorded", Keep: journal.UntilReboot},
		{Name: "repairing", Means: "sockets of connections inside the app, if there are any, are in repair mode"},
		{Name: "dumped", Means: "CRIU has saved the processes"},
		{Name: "written", Means: "all files are written, and have not got their name"},
		{Name: "adopted", Means: "the memory files are in their store, no manifest names them"},
		{Name: "saved", Means: "the snapshot is there for good", Commits: true},
	},
}

// saveTable is that of a snapshot of an app without processes.
var saveTable = journal.Table{
	Name: "save", Done: "saved", From: []string{string(app.Held), string(app.Stopped)},
	Steps: []journal.Step{
		{Name: "begun", Means: "it is decided, and nothing recorded"},
		{Name: "repairing", Means: "as above, of a held app"},
		{Name: "written", Means: "all files are written, and have not got their name"},
		{Name: "saved", Means: "the snapshot is there for good", Commits: true, Ends: journal.Same},
	},
}

func (eng *Engine) snapshotKind() *Kind {
	return &Kind{Table: snapshotTable, Undo: eng.goOn, Finish: eng.goOn}
}

func (eng *Engine) saveKind() *Kind {
	end := func(_ context.Context, r *Run) error {
		if rec, _ := r.Subject.Read(); rec.Operation.Kind != saveTable.Name {
			return nil // a restack that could neither be undone nor be finished: it stays open
		}
		return r.Close()
	}
	return &Kind{Table: saveTable, Undo: end, Finish: end}
}

// goOn has an app go on that was being saved. Whether there is a snapshot or not makes no
// difference to it.
func (eng *Engine) goOn(ctx context.Context, r *Run) error {
	a := r.Subject
	if r.Left {
		if err := errors.Join(a.Subject().NetState().EndRepair(ctx), a.Subject().PutBackTerminals()); err != nil {
			return err
		}
		if err := a.Cgroup().Thaw(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return r.Close()
}

// SnapshotRequest says what TakeSnapshot does.
type SnapshotRequest struct {
	Accept []preflight.Protection // that may be lost
	Name   string                 // "": chosen
	Stop   bool
	Whole  bool // as in snapshot.TakeOptions
	// Passing is as in [snapshot.Manifest].
	Passing bool
	// Reserved is called when nobody else can make a snapshot of that name; may be
	// nil.
	Reserved func(context.Context) error
	Op       *event.Operation
}

// TakeSnapshot saves an app under a name. If it fails the app goes on as it
// was, and no snapshot is left.
func (eng *Engine) TakeSnapshot(ctx context.Context, a *App, req SnapshotRequest) (_ *snapshot.Manifest, _ *Outcome, err error) {
	release, err := eng.Turn(ctx, a, "snapshot")
	if err != nil {
		return nil, nil, err
	}
	defer release()
	if rec, _ := a.Read(); rec.Status == app.Held || rec.Status == app.Stopped {
		return eng.saveAtRest(ctx, a, req)
	}
	if err := a.allows(eng.kinds.snapshot); err != nil {
		return nil, nil, err
	}
	sub := a.Subject(req.Accept...)
	settings, unbound := sub.NetState().CopyableSettings(ctx)
	unrestorable, err := a.unrestorable()
	if err != nil {
		return nil, nil, err
	}
	seen, err := sub.Preflight(ctx, vet.PreflightCopy)
	if err := errors.Join(err, unbound, req.atOnce(a, unrestorable)); err != nil {
		return nil, nil, err
	}
	target, free, err := eng.reserve(ctx, req, a.Name())
	if err != nil {
		return nil, nil, err
	}
	defer free()
	r, err := eng.begin(eng.kinds.snapshot, a, req.Op)
	if err != nil {
		return nil, nil, err
	}
	rec, _ := a.Read()
	out := &Outcome{}
	err = r.Do(ctx, func(ctx context.Context) error {
		manifest := eng.manifest(&rec)
		manifest.Name, manifest.Passing = filepath.Base(string(target)), req.Passing
		taken, err := eng.Tools.Copy(ctx, sub, checkpoint.Saving{
			Target: string(target), Manifest: manifest, Seen: seen, Settings: settings,
			Whole: rec.RestoreMemory == restore.Copy || req.Whole, End: req.Stop, Step: req.Op.Step, At: r.At,
		})
		req.Op.EndStep()
		if err != nil {
			return err
		}
		req.Op.Froze(taken.Frozen)
		out.Frozen = taken.Frozen
		if req.Stop {
			return eng.stopped(context.WithoutCancel(ctx), a, "ended by snapshot "+manifest.Name)
		}
		return r.Close()
	})
	if err != nil {
		eng.Storage.SweepSoon() // what was adopted in vain
		return nil, nil, err
	}
	m, err := target.Manifest()
	if err != nil {
		return nil, nil, err
	}
	if !req.Stop {
		_ = req.atOnce(a, eng.Checker.Saved(ctx, restore.Options{Snapshot: target, Manifest: m}, &rec, snapshot.BySize)...) // notes
	}
	out.Notes = a.Remarked()
	return m, out, nil
}

// atOnce joins what is in the way of a snapshot that ends the app. What is in the way of
// another one is noted, and nil returned.
func (r *SnapshotRequest) atOnce(a *App, inTheWay ...error) error {
	err := errors.Join(inTheWay...)
	if err == nil || r.Stop {
		return err
	}
	for _, o := range restorable.ObstaclesOf(inTheWay...) {
		a.Remark("no app could be made of the snapshot now: "+o.Reason, o.Remedy)
	}
	return nil
}

// unrestorable looks at a running app for what would keep others from being made of it, but for
// what preflight finds; nil if nothing does.
func (a *App) unrestorable() (found, err error) {
	pids, err := a.Cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	return restorable.Running(a.Root(), pids), nil
}

// heldUnrestorable looks at the images of a held app for the same.
func (eng *Engine) heldUnrestorable(ctx context.Context, a *App) ([]error, error) {
	if !a.ready { // its root may not be mounted: all that can be told without it
		return eng.Checker.Held(ctx, a, snapshot.BySize)
	}
	return eng.Checker.Rehearse(ctx, a)
}

// saveAtRest makes a snapshot of an app without processes, which stays as it is. The caller has
// its turn.
func (eng *Engine) saveAtRest(ctx context.Context, a *App, req SnapshotRequest) (*snapshot.Manifest, *Outcome, error) {
	r, err := eng.begin(eng.kinds.save, a, req.Op)
	if err != nil {
		return nil, nil, err
	}
	held := a.Status() == app.Held
	var target snapshot.Dir
	err = r.Do(ctx, func(ctx context.Context) (err error) {
		if held {
			target, err = eng.copyHeld(ctx, r, req)
		} else {
			target, err = eng.CopyStopped(ctx, r, req)
		}
		if err != nil {
			return err
		}
		return r.At(ctx, "saved")
	})
	eng.Storage.SweepSoon()
	if err != nil {
		return nil, nil, err
	}
	if req.Stop && held {
		if err := eng.stopHeld(ctx, a, "ended by snapshot "+filepath.Base(string(target))); err != nil {
			return nil, nil, err
		}
	}
	m, err := target.Manifest()
	return m, &Outcome{Notes: a.Remarked()}, err
}

// copyHeld saves an app that is hibernated. Returns where.
func (eng *Engine) copyHeld(ctx context.Context, r *Run, req SnapshotRequest) (snapshot.Dir, error) {
	inside, err := eng.copyable(ctx, r)
	if err != nil {
		return "", err
	}
	return eng.CopyHeld(ctx, r, req, inside)
}

// CopyHeld saves an app that is hibernated as a snapshot, with what inside is of its network state. It is a
// part of r, which has a step "written" for when all files are there and have not got their name. Returns
// where.
func (eng *Engine) CopyHeld(ctx context.Context, r *Run, req SnapshotRequest, inside *netstate.Saved) (snapshot.Dir, error) {
	a := r.Subject
	unrestorable, err := eng.heldUnrestorable(ctx, a)
	if err != nil {
		return "", err
	}
	if err := req.atOnce(a, unrestorable...); err != nil {
		return "", err
	}
	target, free, err := eng.reserve(ctx, req, a.Name())
	if err != nil {
		return "", err
	}
	defer free()
	held, _ := a.Read()
	eng.Storage.HostFiles.Pin(held.HostFiles)
	defer eng.Storage.HostFiles.Unpin(held.HostFiles)
	r.Step("save files")
	layers, shared, err := eng.restack(ctx, a)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", a.Name(), err)
	}
	rec, _ := a.Read()
	if !shared {
		layers = rec.Layers
	}
	r.Step("copy images")
	dir, err := a.Hibernation().Copy(ctx, snapshot.CopyOptions{
		Target: string(target), Store: eng.Storage.Memory, Layers: eng.Storage.Layers,
		Change: func(m *snapshot.Manifest) {
			m.Passing = req.Passing
			m.Name, m.CreatedAt, m.WithStorage, m.Layers = filepath.Base(string(target)), time.Now(), true, layers
			m.Policy = rec.SavedPolicy() // an older snapctl may have saved it
			m.Connections = len(inside.Connections)
		},
		CopyFiles: func(ctx context.Context, to snapshot.Dir) error {
			if err := inside.Write(to); err != nil || shared {
				return errors.Join(err, r.At(ctx, "written"))
			}
			r.Step("copy files")
			if err := layer.CopyUpper(ctx, a.Box.Upper(), to.Storage()); err != nil {
				return err
			}
			r.Step("commit")
			return r.At(ctx, "written")
		},
	})
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", rec.Name, err)
	}
	return dir, nil
}

// copyable saves what a copy of a held app gets of its connections, and refuses an app that
// can't be copied.
func (eng *Engine) copyable(ctx context.Context, r *Run) (*netstate.Saved, error) {
	a := r.Subject
	held := a.Endpoint.Held()
	if held == nil {
		return &netstate.Saved{}, nil
	}
	if err := held.Copyable(); err != nil {
		return nil, err
	}
	for _, n := range held.LostInCopies() {
		a.Remark(n.Text, n.Remedy)
	}
	state := a.Subject().NetState()
	state.Repairing = func(ctx context.Context) error { return r.At(ctx, "repairing") }
	return state.SaveHeld(ctx, a.Hibernation())
}

// reserve gives a snapshot its name while it is written.
func (eng *Engine) reserve(ctx context.Context, req SnapshotRequest, app string) (_ snapshot.Dir, free func(), err error) {
	dir, free, err := eng.Store.Reserve(req.Name, app)
	if err != nil || req.Reserved == nil {
		return dir, free, err
	}
	if err := req.Reserved(ctx); err != nil {
		free()
		return "", nil, err
	}
	return dir, free, nil
}
