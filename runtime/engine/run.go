package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/vem/netns"
)

// Run makes a new app from a valid record and starts its program. If it fails
// nothing is left of it.
func (eng *Engine) Run(ctx context.Context, rec app.Record) (_ *App, err error) {
	a, release, err := eng.enroll(ctx, rec, app.Creating)
	if err != nil {
		return nil, err
	}
	defer release()
	defer func() {
		if err != nil {
			err = errors.Join(err, eng.Expunge(context.WithoutCancel(ctx), a))
		}
	}()
	if err := fault.Point(ctx, fault.CreateAfterRecord); err != nil {
		return nil, err
	}
	ns, err := eng.enclose(ctx, a)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // a handle
	launch, err := a.Box.Launch(ctx, ns)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", rec.Name, err)
	}
	defer func() { err = errors.Join(err, launch.Close()) }()
	if err := a.Box.Furnish(ctx); err != nil {
		return nil, err
	}
	if err := fault.Point(ctx, fault.CreateAfterSandbox); err != nil {
		return nil, err
	}
	if err := a.Endpoint.Attach(ctx, ns); err != nil {
		return nil, err
	}
	a.ready = true
	if err := fault.Point(ctx, fault.CreateAfterAttach); err != nil {
		return nil, err
	}
	proc, err := launch.Run()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", rec.Name, err)
	}
	if err := fault.Point(ctx, fault.CreateAfterStart); err != nil {
		return nil, errors.Join(err, proc.Close())
	}
	return a, eng.adopt(a, proc, journal.Forever)
}

// prepare makes the app's sandbox and attaches it to its network. Both may
// exist. The caller closes the namespace.
func (eng *Engine) prepare(ctx context.Context, a *App) (_ *netns.NS, err error) {
	if err := eng.settleRestack(ctx, a); err != nil {
		return nil, err
	}
	return eng.makeSandbox(ctx, a)
}

// makeSandbox is prepare for an app whose files are where its record says.
func (eng *Engine) makeSandbox(ctx context.Context, a *App) (_ *netns.NS, err error) {
	ns, err := eng.enclose(ctx, a)
	if err != nil {
		return nil, err
	}
	err = a.Box.Furnish(ctx)
	if err == nil {
		err = a.Endpoint.Attach(ctx, ns)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	a.ready = true
	return ns, nil
}

// enclose makes the part of the app's sandbox that processes are started in, and the
// work directory; both may exist. The caller closes the namespace.
func (eng *Engine) enclose(ctx context.Context, a *App) (*netns.NS, error) {
	ns, err := a.Box.Enclose(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.work(), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make work directory: %w", err), ns.Close())
	}
	return ns, nil
}

// prepared opens the network namespace of an app's sandbox. It trusts a sandbox that this
// daemon has prepared and not taken down since: to look at all devices, routes and rules again
// costs 5 to 10 ms, for which traffic would wait on a wake. After a failed wake, a take-down or
// a restart of the daemon it prepares the sandbox again.
func (eng *Engine) prepared(ctx context.Context, a *App) (*netns.NS, error) {
	if a.ready {
		if ns, err := netns.Open(a.Box.NetPath()); err == nil {
			return ns, nil
		}
	}
	return eng.prepare(ctx, a)
}

// adopt makes a running process the app's, and watches for its end.
func (eng *Engine) adopt(a *App, proc *process.Process, durable journal.Durability) error {
	return eng.adoptAs(a, proc, app.Running, durable)
}

func (eng *Engine) adoptAs(a *App, proc *process.Process, status app.Status, durable journal.Durability) error {
	id, err := process.Identify(proc.PID)
	if err != nil {
		return errors.Join(err, proc.Close())
	}
	err = a.Step(status, durable, func(r *app.Record) {
		r.Process = id
		r.LastError, r.Notes = "", a.Remarked()
	})
	if err != nil {
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
	eng.tasks.follow(func(ctx context.Context) {
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
	eng.watchIdle(a, ended)
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
	if _, ok := errors.AsType[*app.StepError](err); ok {
		return err
	}
	if rec.Pool != "" {
		eng.readyGone() // it is removed, and another one made
	} else {
		eng.Events.Emit(event.Exited, event.About{App: rec.Name, Reason: exit})
	}
	eng.Storage.SweepSoon()
	return errors.Join(err, eng.takeDown(ctx, a))
}

// takeDown removes the app's network and sandbox; its processes have ended.
func (eng *Engine) takeDown(ctx context.Context, a *App) error {
	a.ready = false
	err := a.Endpoint.Detach(ctx)
	if err == nil && a.Status() == app.Removing {
		err = fault.Point(ctx, fault.RemoveAfterDetach)
	}
	return errors.Join(err, a.Box.Remove())
}

// hasEnded tells whether the process that the app has has ended.
func (a *App) hasEnded() bool {
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

// Expunge ends an app and removes all there is of it. The caller has its turn. If it fails it
// can be called again, and the next daemon goes on with it.
func (eng *Engine) Expunge(ctx context.Context, a *App) error {
	if a.Gone() {
		return nil
	}
	if a.Status() != app.Removing {
		// A full disk is no reason to keep what fills it. If this daemon dies
		// before the end, the next one has the app as it was, but stopped.
		if err := a.Settle(app.Removing, journal.UntilReboot, nil); err != nil && !fullDisk(err) {
			return err
		}
	}
	if err := fault.Point(ctx, fault.RemoveAfterRecord); err != nil {
		return err
	}
	if err := a.Cgroup().Kill(ctx); err != nil {
		return err
	}
	a.dropProcess()
	if err := a.release(ctx); err != nil {
		return err
	}
	if err := fault.Point(ctx, fault.RemoveAfterKill); err != nil {
		return err
	}
	if err := eng.takeDown(ctx, a); err != nil {
		return err
	}
	if err := fault.Point(ctx, fault.RemoveAfterSandbox); err != nil {
		return err
	}
	if err := removeDir(a.Dir()); err != nil {
		return err
	}
	rec, _ := a.Read()
	eng.Apps.Remove(a)
	a.Endpoint.Free()
	if rec.Pool == "" {
		eng.Events.Emit(event.Removed, event.About{App: rec.Name})
	}
	defer eng.Storage.SweepSoon()
	return fault.Point(ctx, fault.RemoveBeforeSweep)
}

// fullDisk tells whether there was no room to write, which is no reason not to
// remove something.
func fullDisk(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// removeDir removes an app's state directory, its record last, so that what a
// crash leaves is still known to be half removed.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove app: %w", err)
	}
	for _, e := range entries {
		if e.Name() == app.RecordFile {
			continue
		}
		if err := os.RemoveAll(dir + "/" + e.Name()); err != nil {
			return fmt.Errorf("remove app: %w", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove app: %w", err)
	}
	return nil
}

// ChooseName finds a free name for an app that was given none.
func (eng *Engine) ChooseName(program string) string {
	base := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, program)
	base = cmp.Or(strings.Trim(base[:min(len(base), 40)], "-"), "app")
	name := base
	for i := 2; eng.Apps.Taken(name); i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	return name
}
