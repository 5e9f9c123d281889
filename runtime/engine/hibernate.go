package engine

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/calloff"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine/wakers"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

var hibernateTable = journal.Table{
	Name: "hibernate", Doing: string(app.Hibernating), Done: "hibernated", From: []string{string(app.Running)},
	Steps: []journal.Step{
		{Name: "begun", Means: "the intent is recorded", Keep: journal.UntilReboot},
		{Name: "frozen", Means: "the cgroup is frozen"},
		{Name: "collected", Means: "the daemon has duplicates of the sockets"},
		{Name: "held", Means: "the holder has the sockets"},
		{Name: "dumped", Means: "CRIU has saved the processes and waits for an answer"},
		{Name: "adopted", Means: "the memory files are in their store, no manifest names them"},
		{Name: "saved", Means: "the images are there for good, the processes still exist"},
		{Name: "ended", Means: "the processes are gone: the hold is everything", Commits: true},
		{Name: "recorded", Means: "the app is recorded as held", Keep: journal.Forever, Ends: string(app.Held)},
		{Name: "armed", Means: "the wake policy is armed"},
	},
}

func (eng *Engine) hibernateKind() *Kind {
	return &Kind{Table: hibernateTable, Committed: eng.isHibernated, Undo: eng.undoHibernate, Finish: eng.finishHibernate}
}

// Outcome is what a long operation tells when it has succeeded.
type Outcome struct {
	Sockets []checkpoint.Outcome // those that were not simply kept
	Notes   []app.Note           // see [app.App.Remark]
	Frozen  time.Duration        // how long the processes stood still, or stood still before they ended
}

// Hibernate saves a running app, ends its processes and holds its sockets. If
// it fails, the app runs as before.
//
// An app that changed what CRIU had been told, just before it was frozen, is tried once more, and so is one
// at which CRIU failed with a shortcut: without any.
func (eng *Engine) Hibernate(ctx context.Context, a *App, how Sleep, op *event.Operation) (*Outcome, error) {
	out, err := eng.hibernateOnce(ctx, a, how, op)
	for how.care.Heed(err) && a.Status() == app.Running {
		out, err = eng.hibernateOnce(ctx, a, how, op)
	}
	return out, err
}

// Sleep says how an app is hibernated.
type Sleep struct {
	Accept []preflight.Protection // that may be lost
	// Alarm is as in snapshot.TakeOptions.
	Alarm func(first *alarm.Alarm) error
	// IfQuiet has traffic that would wake the app call it off while the app can go on: see [calloff.Error].
	IfQuiet bool
	// Moves is for an app that is to run again at once, here or on another host: what is saved of it is volatile.
	Moves bool
	care  checkpoint.Care
}

// hibernateOnce is Hibernate without the second try.
//
// The order makes it safe: the holder has the sockets before the processes can
// end, and the images are on the disk.
func (eng *Engine) hibernateOnce(ctx context.Context, a *App, how Sleep, op *event.Operation) (_ *Outcome, err error) {
	release, err := eng.Turn(ctx, a, "hibernate")
	if err != nil {
		return nil, err
	}
	defer release()
	if a.Status() == app.Held {
		return &Outcome{}, nil
	}
	if err := a.allows(eng.kinds.hibernate); err != nil {
		return nil, err
	}
	sub := a.Subject(how.Accept...)
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
	a.Amend(func(rec *app.Record) { rec.Resume, rec.Volatile = how.Moves, how.Moves })
	r, err := eng.begin(eng.kinds.hibernate, a, op)
	if err != nil {
		return nil, err
	}
	defer eng.Storage.SweepSoon() // what was adopted in vain, or is no base any more
	out := &Outcome{}
	err = r.Do(ctx, func(ctx context.Context) error {
		rec, _ := a.Read()
		watch, ctx := calloff.New(ctx)
		taken, err := eng.Tools.Hibernate(ctx, sub, checkpoint.Saving{
			Target: string(a.Hibernation()), Manifest: eng.manifest(&rec), Seen: seen, Settings: settings,
			Whole: rec.RestoreMemory == restore.Copy, Care: how.care, Step: op.Step, At: r.At, Alarm: how.Alarm,
			Volatile: how.Moves,
			Hold: func(ctx context.Context, set *hold.Set) error {
				if how.IfQuiet {
					defer watch.Start(func(ctx context.Context) (string, error) {
						return a.Endpoint.AwaitTraffic(ctx, a.Box.NetPath(), rec.Wake)
					})
				}
				return a.Endpoint.Hold(ctx, set)
			},
		})
		op.EndStep()
		if err = watch.End(err, func() { a.Amend(func(rec *app.Record) { rec.CalledOff++ }) }); err != nil {
			return err
		}
		op.Froze(taken.Frozen)
		out.Frozen = taken.Frozen
		ctx = context.WithoutCancel(ctx)
		if err := r.At(ctx, "ended"); err != nil {
			return err
		}
		if err := eng.BecomeHeld(ctx, r); err != nil {
			return err
		}
		out.Sockets = eng.Tools.Reset(ctx, a.Hibernation(), taken.External, a.Endpoint.HeldImages(), "")
		return nil
	})
	out.Notes = a.Remarked()
	return out, err
}

// isHibernated tells whether a hibernation is complete: the images are there, and the root
// process has ended.
func (eng *Engine) isHibernated(_ context.Context, r *Run) (bool, error) {
	rec, _ := r.Subject.Read()
	if openAlive(rec.Process) {
		return false, nil
	}
	_, err := r.Subject.Hibernation().Manifest()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// BecomeHeld makes an app a held one whose processes have ended. So it can't fail; what can't
// be recorded now the next daemon finds out.
func (eng *Engine) BecomeHeld(ctx context.Context, r *Run) error {
	a := r.Subject
	a.dropProcess()
	// What can't be read now is read whenever somebody asks what is needed.
	var files []memory.File
	var host []hostfile.File
	var first *alarm.Alarm
	if m, err := a.Hibernation().Manifest(); err == nil {
		files, host, first = m.MemoryFiles(), m.HostFiles, m.Alarm
	}
	rec, _ := a.Read()
	for _, n := range wakers.Notes(&rec, first, a.Endpoint.Held()) {
		a.Remark(n.Text, n.Remedy)
	}
	notes := a.Remarked()
	a.Amend(func(rec *app.Record) {
		rec.Process, rec.Memory, rec.HostFiles, rec.Boot, rec.Notes, rec.Alarm = process.Identity{}, files, host, eng.VEM.Boot(), notes, first
	})
	if err := r.At(ctx, "recorded"); err != nil {
		return err
	}
	if rec.Process.PID != 0 { // else it came from another host, and its cgroup has had no processes
		if err := a.Box.Renew(ctx); err != nil {
			a.ready = false // the next wake tries again
			eng.log.ErrorContext(ctx, "renew cgroup", slog.String("app", a.Name()), slog.Any("error", err))
		}
	}
	eng.Arm(ctx, a)
	return r.At(ctx, "armed")
}

// finishHibernate finishes a hibernation whose processes have ended.
func (eng *Engine) finishHibernate(ctx context.Context, r *Run) error {
	if err := r.Subject.Cgroup().Kill(ctx); err != nil {
		return err
	}
	if r.Left {
		if err := eng.recoverHeld(ctx, r.Subject); err != nil {
			return err
		}
	}
	return eng.BecomeHeld(ctx, r)
}

// undoHibernate makes an app whose processes are alive a running one again.
func (eng *Engine) undoHibernate(ctx context.Context, r *Run) error {
	a := r.Subject
	rec, _ := a.Read()
	if a.proc == nil && !openAlive(rec.Process) { // before the images were complete, by itself
		return eng.stopped(ctx, a, "ended while it was hibernated")
	}
	err := errors.Join(a.Subject().PutBackTerminals(), eng.narrowAgain(ctx, a), a.Cgroup().Thaw(), a.release(ctx), a.Hibernation().Remove())
	if err != nil {
		return err
	}
	return r.Close()
}
