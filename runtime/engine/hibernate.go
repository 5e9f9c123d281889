package engine

import (
	"context"
	"errors"
	"log/slog"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

// Outcome is what a long operation tells when it has succeeded.
type Outcome struct {
	Sockets []checkpoint.Outcome // those that were not simply kept
	Notes   []app.Note           // see [app.App.Remark]
}

// Hibernate saves a running app, ends its processes and holds its sockets. If
// it fails, the app runs as before.
//
// An app that changed what CRIU had been told, just before it was frozen, is
// tried once more.
func (eng *Engine) Hibernate(ctx context.Context, a *App, how Sleep, op *event.Operation) (*Outcome, error) {
	out, err := eng.hibernateOnce(ctx, a, how, op)
	if errors.Is(err, checkpoint.ErrChanged) && a.Status() == app.Running {
		how.thorough = true
		return eng.hibernateOnce(ctx, a, how, op)
	}
	return out, err
}

// Sleep says how an app is hibernated.
type Sleep struct {
	Accept   []preflight.Protection // that may be lost
	thorough bool                   // as in checkpoint.Saving
	// alarm is as in snapshot.TakeOptions.
	alarm func(first *alarm.Alarm) error
}

// hibernateOnce is Hibernate without the second try.
//
// The order makes it safe: the holder has the sockets before the processes can
// end, and the images are on the disk.
func (eng *Engine) hibernateOnce(ctx context.Context, a *App, how Sleep, op *event.Operation) (_ *Outcome, err error) {
	release, err := a.Take(ctx, "hibernate")
	if err != nil {
		return nil, err
	}
	defer release()
	if a.Status() == app.Held {
		return &Outcome{}, nil
	}
	sub := a.subject(how.Accept...)
	seen, err := sub.Preflight(ctx, vet.Preflight)
	if err != nil {
		return nil, err
	}
	settings, err := sub.NetState().Settings()
	if err != nil {
		return nil, err
	}
	if err := eng.VEM.HolderReady(ctx); err != nil {
		return nil, err
	}
	if err := a.Step(app.Hibernating, journal.UntilReboot, nil); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, eng.undoHibernate(context.WithoutCancel(ctx), a))
		}
		eng.Storage.SweepSoon() // what was adopted in vain, or is no base any more
	}()
	if err := fault.Point(ctx, fault.HibernateAfterRecord); err != nil {
		return nil, err
	}
	rec, _ := a.Read()
	taken, err := eng.tools().Hibernate(ctx, sub, checkpoint.Saving{
		Target: string(a.Hibernation()), Manifest: eng.manifest(&rec), Seen: seen, Settings: settings,
		Whole: rec.RestoreMemory == restore.Copy, Thorough: how.thorough, Step: op.Step, Alarm: how.alarm,
		Hold: func(ctx context.Context, set *hold.Set) error { return a.Endpoint.Hold(ctx, set) },
	})
	op.EndStep()
	if err != nil {
		return nil, err
	}
	op.Froze(taken.Frozen)
	// No way back from here: the processes are gone, the hold is everything.
	ctx = context.WithoutCancel(ctx)
	if err := fault.Point(ctx, fault.HibernateAfterKill); err != nil {
		eng.log.ErrorContext(ctx, "fault after the end of the processes", slog.Any("error", err))
	}
	eng.becomeHeld(ctx, a)
	lost := eng.tools().Reset(ctx, a.Hibernation(), taken.External, a.Endpoint.HeldInodes(), "")
	return &Outcome{Sockets: lost, Notes: a.Remarked()}, nil
}

// becomeHeld is the last step of hibernating: the processes have ended, so it
// can't fail. What can't be recorded now the next daemon finds out.
func (eng *Engine) becomeHeld(ctx context.Context, a *App) {
	a.dropProcess()
	// What can't be read now is read whenever somebody asks what is needed.
	var files []memory.File
	var host []hostfile.File
	var first *alarm.Alarm
	if m, err := a.Hibernation().Manifest(); err == nil {
		files, host, first = m.MemoryFiles(), m.HostFiles, m.Alarm
	}
	rec, _ := a.Read()
	a.tellWakers(&rec, first)
	err := a.Settle(app.Held, journal.Forever, func(r *app.Record) {
		r.Process, r.Memory, r.HostFiles, r.Boot, r.Notes, r.Alarm = process.Identity{}, files, host, vem.BootID(), a.Remarked(), first
	})
	if err != nil {
		a.Note(err)
		eng.log.ErrorContext(ctx, "record a held app", slog.String("app", a.Name()), slog.Any("error", err))
	}
	if err := a.Box.Renew(ctx); err != nil {
		a.ready = false // the next wake tries again
		eng.log.ErrorContext(ctx, "renew cgroup", slog.String("app", a.Name()), slog.Any("error", err))
	}
	eng.arm(ctx, a)
	if err := fault.Point(ctx, fault.HibernateAfterArm); err != nil {
		eng.log.ErrorContext(ctx, "fault after arming", slog.Any("error", err))
	}
}

// undoHibernate makes an app whose processes are alive a running one again.
func (eng *Engine) undoHibernate(ctx context.Context, a *App) error {
	if a.Status() != app.Hibernating {
		return nil
	}
	return errors.Join(
		a.subject().PutBackTerminals(),
		eng.narrowAgain(ctx, a),
		a.Cgroup().Thaw(),
		a.release(ctx),
		a.Hibernation().Remove(),
		a.Settle(app.Running, journal.UntilReboot, nil),
	)
}
