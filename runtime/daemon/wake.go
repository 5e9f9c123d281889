package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
)

// wake restores a held app onto its held sockets. If it fails the app stays
// held.
func (d *Daemon) wake(ctx context.Context, a *App, by app.WokenBy, op *event.Operation) (*outcome, error) {
	rec, _ := a.Read()
	return d.wakeWith(ctx, a, awakening{by: by, pages: rec.RestoreMemory, acceptChanged: rec.AcceptChanged}, op)
}

// awakening says how an app is woken.
type awakening struct {
	by            app.WokenBy
	pages         restore.Pages
	acceptChanged bool // as in restore.Options
}

func (d *Daemon) wakeWith(ctx context.Context, a *App, how awakening, op *event.Operation) (_ *outcome, err error) {
	release, err := a.Take(ctx, "wake")
	if err != nil {
		return nil, err
	}
	defer release()
	rec, _ := a.Read()
	if rec.Status == app.Running {
		return &outcome{}, nil
	}
	if a.end.Held() == nil && a.end.Lost() == "" {
		// An earlier attempt to get them failed: without a sign that they are
		// lost, the app is not woken without them.
		if err := a.reclaim(ctx); err != nil {
			return nil, err
		}
	}
	if err := a.end.Disarm(); err != nil {
		return nil, errors.Join(err, d.rearm(a))
	}
	if err := a.Assume(app.Waking, func(r *app.Record) { r.WokenBy = how.by }); err != nil {
		return nil, errors.Join(err, d.rearm(a))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.undoWake(context.WithoutCancel(ctx), a))
			a.Note(err) // snapctl show tells it as long as it sleeps
		}
	}()
	if err := fault.Point(ctx, fault.WakeAfterRecord); err != nil {
		return nil, err
	}
	op.Step("check images")
	m, err := a.hibernation().Manifest()
	if err != nil {
		return nil, err
	}
	// What the app reads from a held socket nobody can give it again, so it is
	// never ended once it may have run: the last moment to fail is before.
	tools, sub := d.tools(), a.subject()
	sub.AcceptChanged = how.acceptChanged
	proc, err := tools.Revive(ctx, sub, checkpoint.Revival{
		From: a.hibernation(), Manifest: m, Pages: how.pages, TimersGoOn: rec.Wake.Timers, Step: op.Step,
		Options:    func() (sockopt.Saved, error) { return sub.NetState().UnheldOptions(a.hibernation()) },
		Enclose:    func(ctx context.Context) (*netns.NS, error) { return d.prepared(ctx, a) },
		SetNetwork: !a.ready, // or nobody knows
		Meanwhile: func(ctx context.Context) error {
			return a.hibernation().Check(ctx, m, snapshot.ByStamp, d.storage.Memory)
		},
		Ready: func(ctx context.Context, pid int) error {
			if err := tools.Narrow(ctx, sub); err != nil {
				return err
			}
			if err := a.resuming(pid, mappedFiles(m, how.pages), m.HostFiles); err != nil {
				return err
			}
			return fault.Point(ctx, fault.WakeAfterResuming)
		},
	})
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if err := fault.Point(ctx, fault.WakeAfterRestore); err != nil {
		d.log.ErrorContext(ctx, "fault after restoring", slog.Any("error", err))
	}
	op.Step("let go of sockets")
	if err := a.Settle(app.Running, journal.UntilReboot, func(r *app.Record) { r.LastError, r.Notes = "", a.Remarked() }); err != nil {
		a.Note(err)
		d.log.ErrorContext(ctx, "record a woken app", slog.String("app", a.Name()), slog.Any("error", err))
	}
	d.follow(a, proc)
	d.events.Emit(event.Woken, event.About{App: a.Name(), Reason: string(how.by)})
	if err := fault.Point(ctx, fault.WakeAfterCommit); err != nil {
		d.log.ErrorContext(ctx, "fault after waking", slog.Any("error", err))
	}
	held, why := a.end.HeldInodes(), string(a.end.Lost())
	err = a.release(ctx)
	lost := tools.Reset(ctx, a.hibernation(), m.External, held, why)
	if err := errors.Join(err, d.dropImages(a)); err != nil {
		// The app runs; only the clean-up is late, and the next one repeats it.
		d.log.ErrorContext(ctx, "clean up after waking", slog.String("app", a.Name()), slog.Any("error", err))
	}
	return &outcome{sockets: lost, notes: a.Remarked()}, nil
}

// dropImages removes the images of a woken app: their name at once, their files when
// nobody waits any more. A daemon that dies before leaves those to the next one's sweep.
func (d *Daemon) dropImages(a *App) error {
	left, err := a.hibernation().Drop()
	if err != nil {
		return err
	}
	d.tasks.run(func(ctx context.Context) {
		err := fault.Point(ctx, fault.DropBeforeRemoval)
		if err := errors.Join(err, os.RemoveAll(left)); err != nil {
			d.log.ErrorContext(ctx, "remove images", slog.String("app", a.Name()), slog.Any("error", err))
		}
		d.storage.SweepSoon()
	})
	return nil
}

// mappedFiles are the memory files that restored processes map.
func mappedFiles(m *snapshot.Manifest, pages restore.Pages) []memory.File {
	if pages == restore.Copy {
		return nil
	}
	return m.MemoryFiles()
}

// resuming records that the processes, of which pid is the first, are about to run.
func (a *App) resuming(pid int, files []memory.File, host []hostfile.File) error {
	id, err := process.Identify(pid)
	if err != nil {
		return err
	}
	return a.Step(app.Resuming, journal.UntilReboot, func(r *app.Record) {
		r.Process, r.Memory, r.HostFiles = id, files, host
	})
}

// narrowAgain gives the datagram sockets of an app whose hibernation is undone their own
// receive buffers back. It may be undone by a later daemon, which has no descriptor of the
// sockets.
func (d *Daemon) narrowAgain(ctx context.Context, a *App) error {
	if a.end.Held() == nil {
		if err := a.reclaim(ctx); err != nil || a.end.Held() == nil {
			return err // the earlier daemon died before the holder had them, and so before they had other buffers
		}
	}
	return a.end.Held().Narrow()
}

// undoWake makes an app that could not be woken a held one again.
func (d *Daemon) undoWake(ctx context.Context, a *App) error {
	if s := a.Status(); s != app.Waking && s != app.Resuming {
		return nil
	}
	if err := a.cgroup().Kill(ctx); err != nil {
		return err
	}
	a.dropProcess()
	a.ready = false // the next attempt repairs what there may be to repair
	err := a.Settle(app.Held, journal.UntilReboot, func(r *app.Record) { r.Process = process.Identity{} })
	return errors.Join(err, d.rearm(a))
}

// arm makes a held app's listeners patient and waits for what wakes it. A
// failure is noted: the app can be woken by command.
func (d *Daemon) arm(ctx context.Context, a *App) {
	if err := d.rearm(a); err != nil {
		a.Note(err)
		d.log.ErrorContext(ctx, "watch a held app", slog.String("app", a.Name()), slog.Any("error", err))
	}
}

func (d *Daemon) rearm(a *App) error {
	rec, _ := a.Read()
	var others []vem.Cause
	if at := rec.Alarm; at != nil && rec.Wake.Timers {
		others = append(others, func(ctx context.Context) (string, error) { return string(app.ByTimer), alarm.Wait(ctx, at.Wake()) })
	}
	return a.end.Arm(vem.Alarm{
		NetPath: a.box.NetPath(), Policy: rec.Wake, Others: others,
		Wake: func(ctx context.Context, by string) { d.wakeBy(ctx, a, app.WokenBy(by)) },
		Fail: func(ctx context.Context, err error) {
			a.Note(err)
			d.log.ErrorContext(ctx, "wait for what wakes an app", slog.String("app", a.Name()), slog.Any("error", err))
		},
	})
}

// wait returns true after the pause, or false if ctx ends first.
func wait(ctx context.Context, pause time.Duration) bool {
	if pause == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
