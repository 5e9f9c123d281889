package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"

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

// wakeAs wakes an app as its record says.
func (eng *Engine) wakeAs(ctx context.Context, a *App, by app.WokenBy, op *event.Operation) (*Outcome, error) {
	rec, _ := a.Read()
	return eng.Wake(ctx, a, Awakening{By: by, Pages: rec.RestoreMemory, AcceptChanged: rec.AcceptChanged}, op)
}

// Awakening says how an app is woken.
type Awakening struct {
	By            app.WokenBy
	Pages         restore.Pages
	AcceptChanged bool // as in restore.Options
}

// Wake revives a held app onto its held sockets. If it fails the app stays held.
func (eng *Engine) Wake(ctx context.Context, a *App, how Awakening, op *event.Operation) (_ *Outcome, err error) {
	release, err := a.Take(ctx, "wake")
	if err != nil {
		return nil, err
	}
	defer release()
	rec, _ := a.Read()
	if rec.Status == app.Running {
		return &Outcome{}, nil
	}
	if a.Endpoint.Held() == nil && a.Endpoint.Lost() == "" {
		// An earlier attempt to get them failed: without a sign that they are
		// lost, the app is not woken without them.
		if err := a.reclaim(ctx); err != nil {
			return nil, err
		}
	}
	if err := a.Endpoint.Disarm(); err != nil {
		return nil, errors.Join(err, eng.rearm(a))
	}
	if err := a.Assume(app.Waking, func(r *app.Record) { r.WokenBy = how.By }); err != nil {
		return nil, errors.Join(err, eng.rearm(a))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, eng.undoWake(context.WithoutCancel(ctx), a))
			a.Note(err) // snapctl show tells it as long as it sleeps
		}
	}()
	if err := fault.Point(ctx, fault.WakeAfterRecord); err != nil {
		return nil, err
	}
	op.Step("check images")
	m, err := a.Hibernation().Manifest()
	if err != nil {
		return nil, err
	}
	// What the app reads from a held socket nobody can give it again, so it is
	// never ended once it may have run: the last moment to fail is before.
	tools, sub := eng.tools(), a.subject()
	sub.AcceptChanged = how.AcceptChanged
	proc, err := tools.Revive(ctx, sub, checkpoint.Revival{
		From: a.Hibernation(), Manifest: m, Pages: how.Pages, TimersGoOn: rec.Wake.Timers, Step: op.Step,
		Options:    func() (sockopt.Saved, error) { return sub.NetState().UnheldOptions(a.Hibernation()) },
		Enclose:    func(ctx context.Context) (*netns.NS, error) { return eng.prepared(ctx, a) },
		SetNetwork: !a.ready, // or nobody knows
		Meanwhile: func(ctx context.Context) error {
			return a.Hibernation().Check(ctx, m, snapshot.ByStamp, eng.Storage.Memory)
		},
		Ready: func(ctx context.Context, pid int) error {
			if err := tools.Narrow(ctx, sub); err != nil {
				return err
			}
			if err := a.resuming(pid, mappedFiles(m, how.Pages), m.HostFiles); err != nil {
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
		eng.log.ErrorContext(ctx, "fault after restoring", slog.Any("error", err))
	}
	op.Step("let go of sockets")
	if err := a.Settle(app.Running, journal.UntilReboot, func(r *app.Record) { r.LastError, r.Notes = "", a.Remarked() }); err != nil {
		a.Note(err)
		eng.log.ErrorContext(ctx, "record a woken app", slog.String("app", a.Name()), slog.Any("error", err))
	}
	eng.follow(a, proc)
	eng.Events.Emit(event.Woken, event.About{App: a.Name(), Reason: string(how.By)})
	if err := fault.Point(ctx, fault.WakeAfterCommit); err != nil {
		eng.log.ErrorContext(ctx, "fault after waking", slog.Any("error", err))
	}
	held, why := a.Endpoint.HeldInodes(), string(a.Endpoint.Lost())
	err = a.release(ctx)
	lost := tools.Reset(ctx, a.Hibernation(), m.External, held, why)
	if err := errors.Join(err, eng.dropImages(a)); err != nil {
		// The app runs; only the clean-up is late, and the next one repeats it.
		eng.log.ErrorContext(ctx, "clean up after waking", slog.String("app", a.Name()), slog.Any("error", err))
	}
	return &Outcome{Sockets: lost, Notes: a.Remarked()}, nil
}

// dropImages removes the images of a woken app: their name at once, their files when
// nobody waits any more. A daemon that dies before leaves those to the next one's sweep.
func (eng *Engine) dropImages(a *App) error {
	left, err := a.Hibernation().Drop()
	if err != nil {
		return err
	}
	eng.tasks.Run(func(ctx context.Context) {
		err := fault.Point(ctx, fault.DropBeforeRemoval)
		if err := errors.Join(err, os.RemoveAll(left)); err != nil {
			eng.log.ErrorContext(ctx, "remove images", slog.String("app", a.Name()), slog.Any("error", err))
		}
		eng.Storage.SweepSoon()
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
func (eng *Engine) narrowAgain(ctx context.Context, a *App) error {
	if a.Endpoint.Held() == nil {
		if err := a.reclaim(ctx); err != nil || a.Endpoint.Held() == nil {
			return err // the earlier daemon died before the holder had them, and so before they had other buffers
		}
	}
	return a.Endpoint.Held().Narrow()
}

// undoWake makes an app that could not be woken a held one again.
func (eng *Engine) undoWake(ctx context.Context, a *App) error {
	if s := a.Status(); s != app.Waking && s != app.Resuming {
		return nil
	}
	if err := a.Cgroup().Kill(ctx); err != nil {
		return err
	}
	a.dropProcess()
	a.ready = false // the next attempt repairs what there may be to repair
	err := a.Settle(app.Held, journal.UntilReboot, func(r *app.Record) { r.Process = process.Identity{} })
	return errors.Join(err, eng.rearm(a))
}

// arm makes a held app's listeners patient and waits for what wakes it. A
// failure is noted: the app can be woken by command.
func (eng *Engine) arm(ctx context.Context, a *App) {
	if err := eng.rearm(a); err != nil {
		a.Note(err)
		eng.log.ErrorContext(ctx, "watch a held app", slog.String("app", a.Name()), slog.Any("error", err))
	}
}

func (eng *Engine) rearm(a *App) error {
	rec, _ := a.Read()
	var others []vem.Cause
	if at := rec.Alarm; at != nil && rec.Wake.Timers {
		others = append(others, func(ctx context.Context) (string, error) { return string(app.ByTimer), alarm.Wait(ctx, at.Wake()) })
	}
	return a.Endpoint.Arm(vem.Alarm{
		NetPath: a.Box.NetPath(), Policy: rec.Wake, Others: others,
		Wake: func(ctx context.Context, by string) { eng.wakeBy(ctx, a, app.WokenBy(by)) },
		Fail: func(ctx context.Context, err error) {
			a.Note(err)
			eng.log.ErrorContext(ctx, "wait for what wakes an app", slog.String("app", a.Name()), slog.Any("error", err))
		},
	})
}
