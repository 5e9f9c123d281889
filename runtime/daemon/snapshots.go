package daemon

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
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/hold"
)

// snapshotRequest says what takeSnapshot does.
type snapshotRequest struct {
	accept []preflight.Protection // that may be lost
	name   string                 // "": chosen
	stop   bool
	whole  bool // as in snapshot.TakeOptions
	// reserved is called when nobody else can make a snapshot of that name; may be
	// nil.
	reserved func(context.Context) error
	op       *event.Operation
}

// takeSnapshot saves an app under a name. If it fails the app goes on as it
// was, and no snapshot is left.
func (d *Daemon) takeSnapshot(ctx context.Context, a *App, req snapshotRequest) (_ *snapshot.Manifest, _ *outcome, err error) {
	release, err := a.Take(ctx, "snapshot")
	if err != nil {
		return nil, nil, err
	}
	defer release()
	switch a.Status() { //nolint:exhaustive // the others are refused
	case app.Held:
		return d.copyHeld(ctx, a, req)
	case app.Stopped:
		return d.saveStopped(ctx, a, req)
	}
	sub := a.subject(req.accept...)
	settings, unbound := sub.NetState().CopyableSettings(ctx)
	unrestorable, err := d.unrestorable(a)
	if err != nil {
		return nil, nil, err
	}
	seen, err := sub.Preflight(ctx, hold.PreflightCopy)
	if err := errors.Join(err, unbound, req.atOnce(a, unrestorable)); err != nil {
		return nil, nil, err
	}
	target, free, err := d.reserve(ctx, req, a.Name())
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
			d.storage.SweepSoon() // what was adopted in vain
		}
	}()
	rec, _ := a.Read()
	manifest := d.manifest(&rec)
	manifest.Name = filepath.Base(string(target))
	taken, err := d.tools().Copy(ctx, sub, checkpoint.Saving{
		Target: string(target), Manifest: manifest, Seen: seen, Settings: settings,
		Whole: rec.RestoreMemory == restore.Copy || req.whole, End: req.stop, Step: req.op.Step,
	})
	req.op.EndStep()
	if err != nil {
		return nil, nil, err
	}
	req.op.Froze(taken.Frozen)
	if req.stop {
		ended = true
		if err := d.stopped(context.WithoutCancel(ctx), a, "ended by snapshot "+manifest.Name); err != nil {
			return nil, nil, err
		}
	}
	m, err := taken.Dir.Manifest()
	if err != nil {
		return nil, nil, err
	}
	if !req.stop {
		_ = req.atOnce(a, d.obstacles(ctx, restore.Options{Snapshot: taken.Dir, Manifest: m}, rec, snapshot.BySize)...) // notes
	}
	return m, &outcome{notes: a.Remarked()}, nil
}

// copyHeld makes a snapshot of an app that is hibernated, and stays so. The caller
// has its turn.
func (d *Daemon) copyHeld(ctx context.Context, a *App, req snapshotRequest) (_ *snapshot.Manifest, _ *outcome, err error) {
	inside := &netstate.Saved{}
	if held := a.end.Held(); held != nil {
		if err := held.Copyable(); err != nil {
			return nil, nil, err
		}
		for _, n := range held.LostInCopies() {
			a.Remark(n.Text, n.Remedy)
		}
		if inside, err = a.subject().NetState().SaveHeld(ctx, a.hibernation()); err != nil {
			return nil, nil, err
		}
	}
	unrestorable, err := d.heldUnrestorable(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	if err := req.atOnce(a, unrestorable...); err != nil {
		return nil, nil, err
	}
	target, free, err := d.reserve(ctx, req, a.Name())
	if err != nil {
		return nil, nil, err
	}
	defer free()
	defer d.storage.SweepSoon()
	held, _ := a.Read()
	d.storage.HostFiles.Pin(held.HostFiles)
	defer d.storage.HostFiles.Unpin(held.HostFiles)
	req.op.Step("save files")
	layers, shared, err := d.restack(ctx, a)
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", a.Name(), err)
	}
	rec, _ := a.Read()
	if !shared {
		layers = rec.Layers
	}
	req.op.Step("copy images")
	dir, err := a.hibernation().Copy(ctx, snapshot.CopyOptions{
		Target: string(target), Store: d.storage.Memory, Layers: d.storage.Layers,
		Change: func(m *snapshot.Manifest) {
			m.Name, m.CreatedAt, m.WithStorage, m.Layers = filepath.Base(string(target)), time.Now(), true, layers
			m.Policy = rec.SavedPolicy() // an older snapctl may have saved it
			m.Connections = len(inside.Connections)
		},
		CopyFiles: func(ctx context.Context, to snapshot.Dir) error {
			if err := inside.Write(to); err != nil || shared {
				return errors.Join(err, fault.Point(ctx, fault.SnapshotBeforeCommit))
			}
			req.op.Step("copy files")
			if err := snapshot.CopyUpper(ctx, a.box.Upper(), to.Storage()); err != nil {
				return err
			}
			req.op.Step("commit")
			return fault.Point(ctx, fault.SnapshotBeforeCommit)
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", rec.Name, err)
	}
	if req.stop {
		if err := d.stopHeld(ctx, a, "ended by snapshot "+filepath.Base(string(target))); err != nil {
			return nil, nil, err
		}
	}
	m, err := dir.Manifest()
	return m, &outcome{notes: a.Remarked()}, err
}

// reserve gives a snapshot its name while it is written.
func (d *Daemon) reserve(ctx context.Context, req snapshotRequest, app string) (_ snapshot.Dir, free func(), err error) {
	dir, free, err := d.store.Reserve(req.name, app)
	if err != nil || req.reserved == nil {
		return dir, free, err
	}
	if err := req.reserved(ctx); err != nil {
		free()
		return "", nil, err
	}
	return dir, free, nil
}

// restoreRequest says what restoreSnapshot makes.
type restoreRequest struct {
	source *source
	record app.Record // see restoredRecord
	// anywhere says that the app gets another address if the record's is in use.
	anywhere bool
	pages    restore.Pages
	op       *event.Operation
}

// restoreSnapshot makes a new app from a snapshot. Its connections to others are
// reset, for these belong to the app that it was taken of. If it fails nothing is
// left of it.
func (d *Daemon) restoreSnapshot(ctx context.Context, req restoreRequest) (_ *App, _ *outcome, err error) {
	s := req.source
	born := birth{source: s, pages: req.pages, acceptChanged: req.record.AcceptChanged}
	req.record.Generation = template.NewGeneration()
	if born.copied, err = d.unstackable(ctx, &req.record); err != nil {
		return nil, nil, err
	}
	req.record.ForgetMemory(req.pages)
	a, release, err := d.enroll(ctx, req.record, app.Restoring)
	taken, moved := errors.AsType[*vem.TakenError](err)
	if moved && req.anywhere {
		req.record.Addr4 = netip.Addr{}
		a, release, err = d.enroll(ctx, req.record, app.Restoring)
	}
	if err != nil {
		return nil, nil, err
	}
	defer release()
	defer func() {
		if err != nil {
			err = errors.Join(err, d.expunge(context.WithoutCancel(ctx), a))
		}
	}()
	if moved {
		rec, _ := a.Read()
		a.Remark(
			fmt.Sprintf("%s is at %s for others, and at %s, which it was saved with, for itself: app %s has that endpoint", rec.Name, rec.Addr4, taken.Addr, taken.App),
			"--endpoint chooses an address",
		)
	}
	if born.plan, err = sameAgain().Plan(a.instance(1, 0, nil)); err != nil {
		return nil, nil, err
	}
	if err := d.instantiate(ctx, a, born, req.op); err != nil {
		return nil, nil, err
	}
	req.op.EndStep()
	out := &outcome{notes: a.Remarked()}
	if s.Manifest.Processes > 0 {
		out.sockets = d.tools().Restored(ctx, s.Dir, s.Manifest)
	}
	return a, out, nil
}

// sameAgain are the rules of an app that is restored and not cloned.
func sameAgain() *template.Rules { return &template.Rules{MachineID: template.MachineIDKeep} }
