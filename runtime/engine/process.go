package engine

import (
	"context"
	"errors"
	"log/slog"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
)

// Adopt makes a process the app's, which is the last step of making an app, and watches for its
// end. The app's sandbox is prepared. If it fails the process is closed.
func (eng *Engine) Adopt(ctx context.Context, r *Run, proc *process.Process) error {
	a := r.Subject
	id, err := process.Identify(proc.PID)
	if err != nil {
		return errors.Join(err, proc.Close())
	}
	a.ready = true
	notes := a.Remarked()
	a.Amend(func(rec *app.Record) { rec.Process, rec.LastError, rec.Notes = id, "", notes })
	if err := r.At(ctx, "recorded"); err != nil {
		return errors.Join(err, proc.Close())
	}
	eng.follow(a, proc)
	return nil
}

// follow waits for the process to end, and then stops the app, unless the
// process was ended on purpose: then it is not the app's any more.
func (eng *Engine) follow(a *App, proc *process.Process) {
	ended := make(chan struct{})
	a.proc, a.ended = proc, ended
	eng.tasks.Follow(func(ctx context.Context) {
		status, err := proc.Wait()
		if err != nil {
			return // closed: the daemon ends, or the process is not the app's
		}
		a.mu.Lock()
		a.exit = status
		a.mu.Unlock()
		close(ended)
		release, err := a.Take(ctx, "clean up after its end")
		if err != nil {
			return
		}
		defer release()
		if a.proc != proc {
			return
		}
		if err := eng.stopped(ctx, a, status.String()); err != nil {
			a.Note(err)
			eng.log.ErrorContext(ctx, "clean up after the end of an app", slog.String("app", a.Name()), slog.Any("error", err))
		}
	})
	eng.followed(a, ended)
}

// stopped takes down what a running app had, once its root process has ended.
// Its record, log and files stay until it is removed.
func (eng *Engine) stopped(ctx context.Context, a *App, exit string) error {
	rec, _ := a.Read()
	if err := a.Cgroup().Kill(ctx); err != nil {
		return err
	}
	a.dropProcess()
	err := a.Settle(app.Stopped, journal.Forever, func(r *app.Record) {
		r.Exit = exit
		r.Process, r.Memory, r.HostFiles = process.Identity{}, nil, nil
	})
	if rec.Pool != "" {
		eng.readyGone() // it is removed, and another one made
	} else {
		eng.Events.Emit(event.Exited, event.About{App: rec.Name, Reason: exit})
	}
	eng.Storage.SweepSoon()
	return errors.Join(err, eng.takeDown(ctx, a))
}

// HandedOut tells who follows apps that one is running that stood ready. The caller has its turn.
func (eng *Engine) HandedOut(a *App) { eng.followed(a, a.ended) }

// Process is the app's root process; nil if it has none. The caller has the app's turn.
func (a *App) Process() *process.Process { return a.proc }

// HasEnded tells whether the app's root process has ended, or whether it has none. The caller has
// the app's turn.
func (a *App) HasEnded() bool {
	select {
	case <-a.ended:
		return true
	default:
		return a.proc == nil
	}
}

// dropProcess forgets the process, which has been killed, once it is reaped.
func (a *App) dropProcess() {
	if a.proc != nil {
		<-a.ended
		_ = a.proc.Close() // a pidfd: nothing to lose
		a.proc = nil
	}
}
