package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
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

var wakeTable = journal.Table{
	Name: "wake", Doing: string(app.Waking), Done: "woken", From: []string{string(app.Held)},
	Steps: []journal.Step{
		{Name: "begun", Means: "it is decided, and on the disk the app is held", Then: "check images"},
		{Name: "starting", Means: "the view of the images is made, CRIU is not started"},
		{Name: "resuming", Means: "the memory files are recorded, the processes are about to run", Keep: journal.UntilReboot, Doing: string(app.Resuming)},
		{Name: "restored", Means: "the processes run", Then: "let go of sockets", Commits: true},
		{Name: "recorded", Means: "the app is recorded as running, the holder still has the sockets", Keep: journal.UntilReboot, Ends: string(app.Running)},
		{Name: "dropped", Means: "the images have lost their name, and are not removed"},
	},
}

func (eng *Engine) wakeKind() *Kind {
	return &Kind{Table: wakeTable, Committed: eng.isWoken, Undo: eng.undoWake, Finish: eng.finishWake}
}

// Awakening says how an app is woken.
type Awakening struct {
	By            app.WokenBy
	Pages         restore.Pages
	AcceptChanged bool       // as in restore.Options
	Notes         []app.Note // what else is to be said of it
}

// Wake revives a held app onto its held sockets. If it fails the app stays held.
func (eng *Engine) Wake(ctx context.Context, a *App, how Awakening, op *event.Operation) (_ *Outcome, err error) {
	release, err := eng.Turn(ctx, a, "wake")
	if err != nil {
		return nil, err
	}
	defer release()
	rec, _ := a.Read()
	if rec.Status == app.Running {
		return &Outcome{}, nil
	}
	if err := a.allows(eng.kinds.wake); err != nil {
		return nil, err
	}
	if err := a.Endpoint.Admitted(); err != nil {
		return nil, app.Refuse(fmt.Errorf("wake %s: %w", rec.Name, err))
	}
	if a.Endpoint.Held() == nil && a.Endpoint.Lost() == "" {
		// An earlier attempt to get them failed: without a sign that they are
		// lost, the app is not woken without them.
		if err := a.Reclaim(ctx); err != nil {
			return nil, err
		}
	}
	if err := a.Endpoint.Disarm(); err != nil {
		return nil, errors.Join(err, eng.rearm(a))
	}
	a.Amend(func(rec *app.Record) { rec.WokenBy = how.By })
	r, err := eng.begin(eng.kinds.wake, a, op)
	if err != nil {
		return nil, errors.Join(err, eng.rearm(a))
	}
	for _, n := range how.Notes {
		a.Remark(n.Text, n.Remedy)
	}
	out := &Outcome{}
	err = r.Do(ctx, func(ctx context.Context) (err error) {
		out.Sockets, err = eng.resume(ctx, r, how, op)
		return err
	})
	if err != nil {
		a.Note(err) // snapctl show tells it as long as it sleeps
		return nil, err
	}
	out.Notes = a.Remarked()
	return out, nil
}

// resume revives the processes of an app that is being woken, and lets go of what was held.
// It returns what became of sockets that were not simply kept.
func (eng *Engine) resume(ctx context.Context, r *Run, how Awakening, op *event.Operation) ([]checkpoint.Outcome, error) {
	a := r.Subject
	rec, _ := a.Read()
	m, err := a.Hibernation().Manifest()
	if err != nil {
		return nil, err
	}
	// What the app reads from a held socket nobody can give it again, so it is
	// never ended once it may have run: the last moment to fail is before.
	tools, sub := eng.Tools, a.Subject()
	sub.AcceptChanged = how.AcceptChanged
	proc, err := tools.Revive(ctx, sub, checkpoint.Revival{
		From: a.Hibernation(), Manifest: m, Pages: how.Pages, TimersGoOn: rec.Wake.Timers, Step: op.Step, At: r.At,
		Options:    func() (sockopt.Saved, error) { return sub.NetState().UnheldOptions(a.Hibernation()) },
		Enclose:    func(ctx context.Context) (*netns.NS, error) { return eng.Prepared(ctx, a) },
		SetNetwork: !a.ready, // or nobody knows
		Meanwhile: func(ctx context.Context) error {
			return a.Hibernation().Check(ctx, m, snapshot.ByStamp, eng.Storage.Memory)
		},
		Ready: func(ctx context.Context, pid int) error {
			if err := tools.Narrow(ctx, sub); err != nil {
				return err
			}
			return a.resuming(ctx, r, pid, mappedFiles(m, how.Pages), m.HostFiles)
		},
	})
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if err := r.At(ctx, "restored"); err != nil {
		return nil, err
	}
	notes := a.Remarked()
	a.Amend(func(rec *app.Record) { rec.LastError, rec.Notes, rec.Resume, rec.Volatile = "", notes, false, false })
	err = r.At(ctx, "recorded")
	eng.follow(a, proc)
	eng.Events.Emit(event.Woken, event.About{App: a.Name(), Reason: string(how.By)})
	held, why := a.Endpoint.HeldImages(), string(a.Endpoint.Lost())
	err = errors.Join(err, a.release(ctx))
	lost := tools.Reset(ctx, a.Hibernation(), m.External, held, why)
	if err := errors.Join(err, eng.dropImages(r)); err != nil {
		// The app runs; only the clean-up is late, and the next one repeats it.
		eng.log.ErrorContext(ctx, "clean up after waking", slog.String("app", a.Name()), slog.Any("error", err))
	}
	return lost, nil
}

// dropImages removes the images of a woken app: their name at once, their files when
// nobody waits any more. A daemon that dies before leaves those to the next one's sweep.
func (eng *Engine) dropImages(r *Run) error {
	a := r.Subject
	left, err := a.Hibernation().Drop()
	if err != nil {
		return err
	}
	eng.tasks.Run(func(ctx context.Context) {
		err := r.At(ctx, "dropped")
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
func (a *App) resuming(ctx context.Context, r *Run, pid int, files []memory.File, host []hostfile.File) error {
	id, err := process.Identify(pid)
	if err != nil {
		return err
	}
	a.Amend(func(rec *app.Record) { rec.Process, rec.Memory, rec.HostFiles = id, files, host })
	return r.At(ctx, "resuming")
}

// narrowAgain gives the datagram sockets of an app whose hibernation is undone their own
// receive buffers back. It may be undone by a later daemon, which has no descriptor of the
// sockets.
func (eng *Engine) narrowAgain(ctx context.Context, a *App) error {
	if a.Endpoint.Held() == nil {
		if err := a.Reclaim(ctx); err != nil || a.Endpoint.Held() == nil {
			return err // the earlier daemon died before the holder had them, and so before they had other buffers
		}
	}
	return a.Endpoint.Held().Narrow()
}

// isWoken tells whether the processes of a wake that was left run. CRIU, which has ended, has
// killed them if it could not let them run. In a wake that this daemon does it knows itself.
func (eng *Engine) isWoken(_ context.Context, r *Run) (bool, error) {
	rec, _ := r.Subject.Read()
	return r.Left && rec.Process.PID != 0 && openAlive(rec.Process), nil
}

// finishWake makes an app whose processes run a running one. What the wake has not let go of
// goes when the app is taken up.
func (eng *Engine) finishWake(ctx context.Context, r *Run) error { return r.At(ctx, "recorded") }

// undoWake makes an app that could not be woken a held one again.
func (eng *Engine) undoWake(ctx context.Context, r *Run) error {
	a := r.Subject
	if err := a.Cgroup().Kill(ctx); err != nil {
		return err
	}
	a.dropProcess()
	a.ready = false // the next attempt repairs what there may be to repair
	a.Amend(func(rec *app.Record) { rec.Process = process.Identity{} })
	err := r.Close()
	if a.Endpoint.Held() == nil && a.Endpoint.Lost() == "" {
		return err // of an earlier daemon: it is armed when it is taken up
	}
	return errors.Join(err, eng.rearm(a))
}

// Arm makes a held app's listeners patient and waits for what wakes it. A
// failure is noted: the app can be woken by command. An app that is woken anyhow as soon as it can be
// (app.Record.Resume) is left alone.
func (eng *Engine) Arm(ctx context.Context, a *App) {
	if err := eng.rearm(a); err != nil {
		a.Note(err)
		eng.log.ErrorContext(ctx, "watch a held app", slog.String("app", a.Name()), slog.Any("error", err))
	}
}

func (eng *Engine) rearm(a *App) error {
	rec, _ := a.Read()
	if rec.Resume {
		return nil
	}
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
