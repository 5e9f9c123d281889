package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

// SnapshotRequest says what TakeSnapshot does.
type SnapshotRequest struct {
	Accept []preflight.Protection // that may be lost
	Name   string                 // "": chosen
	Stop   bool
	Whole  bool // as in snapshot.TakeOptions
	// Reserved is called when nobody else can make a snapshot of that name; may be
	// nil.
	Reserved func(context.Context) error
	Op       *event.Operation
}

// TakeSnapshot saves an app under a name. If it fails the app goes on as it
// was, and no snapshot is left.
func (eng *Engine) TakeSnapshot(ctx context.Context, a *App, req SnapshotRequest) (_ *snapshot.Manifest, _ *Outcome, err error) {
	release, err := a.Take(ctx, "snapshot")
	if err != nil {
		return nil, nil, err
	}
	defer release()
	switch a.Status() { //nolint:exhaustive // the others are refused
	case app.Held:
		return eng.copyHeld(ctx, a, req)
	case app.Stopped:
		return eng.saveStopped(ctx, a, req)
	}
	sub := a.subject(req.Accept...)
	settings, unbound := sub.NetState().CopyableSettings(ctx)
	unrestorable, err := eng.unrestorable(a)
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
	if err := a.Step(app.Snapshotting, journal.UntilReboot, nil); err != nil {
		return nil, nil, err
	}
	ended := false
	defer func() {
		if !ended {
			err = errors.Join(err, a.Settle(app.Running, journal.UntilReboot, nil))
		}
		if err != nil {
			eng.Storage.SweepSoon() // what was adopted in vain
		}
	}()
	rec, _ := a.Read()
	manifest := eng.manifest(&rec)
	manifest.Name = filepath.Base(string(target))
	taken, err := eng.tools().Copy(ctx, sub, checkpoint.Saving{
		Target: string(target), Manifest: manifest, Seen: seen, Settings: settings,
		Whole: rec.RestoreMemory == restore.Copy || req.Whole, End: req.Stop, Step: req.Op.Step,
	})
	req.Op.EndStep()
	if err != nil {
		return nil, nil, err
	}
	req.Op.Froze(taken.Frozen)
	if req.Stop {
		ended = true
		if err := eng.stopped(context.WithoutCancel(ctx), a, "ended by snapshot "+manifest.Name); err != nil {
			return nil, nil, err
		}
	}
	m, err := taken.Dir.Manifest()
	if err != nil {
		return nil, nil, err
	}
	if !req.Stop {
		_ = req.atOnce(a, eng.obstacles(ctx, restore.Options{Snapshot: taken.Dir, Manifest: m}, rec, snapshot.BySize)...) // notes
	}
	return m, &Outcome{Notes: a.Remarked()}, nil
}

// copyHeld makes a snapshot of an app that is hibernated, and stays so. The caller
// has its turn.
func (eng *Engine) copyHeld(ctx context.Context, a *App, req SnapshotRequest) (_ *snapshot.Manifest, _ *Outcome, err error) {
	inside := &netstate.Saved{}
	if held := a.Endpoint.Held(); held != nil {
		if err := held.Copyable(); err != nil {
			return nil, nil, err
		}
		for _, n := range held.LostInCopies() {
			a.Remark(n.Text, n.Remedy)
		}
		if inside, err = a.subject().NetState().SaveHeld(ctx, a.Hibernation()); err != nil {
			return nil, nil, err
		}
	}
	unrestorable, err := eng.heldUnrestorable(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	if err := req.atOnce(a, unrestorable...); err != nil {
		return nil, nil, err
	}
	target, free, err := eng.reserve(ctx, req, a.Name())
	if err != nil {
		return nil, nil, err
	}
	defer free()
	defer eng.Storage.SweepSoon()
	held, _ := a.Read()
	eng.Storage.HostFiles.Pin(held.HostFiles)
	defer eng.Storage.HostFiles.Unpin(held.HostFiles)
	req.Op.Step("save files")
	layers, shared, err := eng.restack(ctx, a)
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", a.Name(), err)
	}
	rec, _ := a.Read()
	if !shared {
		layers = rec.Layers
	}
	req.Op.Step("copy images")
	dir, err := a.Hibernation().Copy(ctx, snapshot.CopyOptions{
		Target: string(target), Store: eng.Storage.Memory, Layers: eng.Storage.Layers,
		Change: func(m *snapshot.Manifest) {
			m.Name, m.CreatedAt, m.WithStorage, m.Layers = filepath.Base(string(target)), time.Now(), true, layers
			m.Policy = rec.SavedPolicy() // an older snapctl may have saved it
			m.Connections = len(inside.Connections)
		},
		CopyFiles: func(ctx context.Context, to snapshot.Dir) error {
			if err := inside.Write(to); err != nil || shared {
				return errors.Join(err, fault.Point(ctx, fault.SnapshotBeforeCommit))
			}
			req.Op.Step("copy files")
			if err := layer.CopyUpper(ctx, a.Box.Upper(), to.Storage()); err != nil {
				return err
			}
			req.Op.Step("commit")
			return fault.Point(ctx, fault.SnapshotBeforeCommit)
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", rec.Name, err)
	}
	if req.Stop {
		if err := eng.stopHeld(ctx, a, "ended by snapshot "+filepath.Base(string(target))); err != nil {
			return nil, nil, err
		}
	}
	m, err := dir.Manifest()
	return m, &Outcome{Notes: a.Remarked()}, err
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

// RestoreRequest says what Restore makes.
type RestoreRequest struct {
	Source *Source
	Record app.Record // see restoredRecord
	// anywhere says that the app gets another address if the record's is in use.
	Anywhere bool
	Pages    restore.Pages
	Op       *event.Operation
}

// Restore makes a new app from a snapshot. Its connections to others are
// reset, for these belong to the app that it was taken of. If it fails nothing is
// left of it.
func (eng *Engine) Restore(ctx context.Context, req RestoreRequest) (_ *App, _ *Outcome, err error) {
	s := req.Source
	born := Birth{Source: s, Pages: req.Pages}
	req.Record.Generation = template.NewGeneration()
	a, release, err := eng.Enroll(ctx, req.Record, &born)
	taken, moved := errors.AsType[*vem.TakenError](err)
	if moved && req.Anywhere {
		req.Record.Addr4 = netip.Addr{}
		a, release, err = eng.Enroll(ctx, req.Record, &born)
	}
	if err != nil {
		return nil, nil, err
	}
	defer release()
	defer func() {
		if err != nil {
			err = errors.Join(err, eng.Expunge(context.WithoutCancel(ctx), a))
		}
	}()
	if moved {
		rec, _ := a.Read()
		a.Remark(
			fmt.Sprintf("%s is at %s for others, and at %s, which it was saved with, for itself: app %s has that endpoint", rec.Name, rec.Addr4, taken.Addr, taken.App),
			"--endpoint chooses an address",
		)
	}
	if born.Plan, err = sameAgain().Plan(a.Instance(1, 0, nil)); err != nil {
		return nil, nil, err
	}
	if err := eng.Instantiate(ctx, a, born, req.Op); err != nil {
		return nil, nil, err
	}
	req.Op.EndStep()
	out := &Outcome{Notes: a.Remarked()}
	if s.Manifest.Processes > 0 {
		out.Sockets = eng.tools().Restored(ctx, s.Dir, s.Manifest)
	}
	return a, out, nil
}

// sameAgain are the rules of an app that is restored and not cloned.
func sameAgain() *template.Rules { return &template.Rules{MachineID: template.MachineIDKeep} }
