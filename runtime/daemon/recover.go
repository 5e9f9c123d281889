package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem"
)

// recover brings every app that an earlier daemon left into a lasting status.
// What it left in the middle of an operation is finished if its processes have
// ended for good, and undone if not.
func (d *Daemon) recover(ctx context.Context) error {
	entries, err := os.ReadDir(d.appsDir())
	if err != nil {
		return fmt.Errorf("list apps: %w", err)
	}
	for _, e := range entries {
		if err := d.load(ctx, e.Name()); err != nil {
			// One bad app keeps no other from its daemon.
			d.log.ErrorContext(ctx, "recover app", slog.String("app", e.Name()), slog.Any("error", err))
		}
	}
	// Each mostly waits for the kernel, some 10 ms: several at once.
	var g errgroup.Group
	g.SetLimit(8)
	for _, a := range d.apps.List() {
		g.Go(func() error {
			if err := d.recoverApp(ctx, a); err != nil {
				a.Note(err)
				d.log.ErrorContext(ctx, "recover app", slog.String("app", a.Name()), slog.Any("error", err))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return errors.Join(d.dropBatches(), d.dropOrphans(ctx))
}

func (d *Daemon) load(_ context.Context, name string) error {
	dir := d.appDir(name)
	rec, err := app.Read(dir)
	if errors.Is(err, os.ErrNotExist) {
		// Enrolling wrote no record yet, or removing had taken it away, after
		// everything else. Images without a record are somebody's only copy.
		images := filepath.Join(dir, "hibernation")
		if _, err := os.Lstat(images); err == nil {
			return fmt.Errorf("its record is missing, and %s is there: put %s back, or remove the directory", images, app.RecordFile)
		}
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	if rec.Status == app.Pooled {
		// Handed out, if that is on record.
		if aside, err := app.Read(filepath.Join(d.opt.RunDir, "apps", name)); err == nil {
			if err := aside.Write(dir, journal.Forever); err != nil {
				return err
			}
			rec = aside
		}
	}
	a := d.newApp(*rec)
	a.end = d.adoptEndpoint(a, rec)
	d.apps.Add(a)
	return nil
}

// dropOrphans has the holder drop the sockets of apps that are gone.
func (d *Daemon) dropOrphans(ctx context.Context) error {
	places := make(map[string]*App)
	for _, a := range d.apps.List() {
		places[a.box.Name] = a
	}
	return d.vem.DropOrphans(ctx, func(name string) vem.Fate {
		a, ok := places[name]
		if !ok {
			if _, err := os.Lstat(d.appDir(name)); err == nil {
				return vem.Stray // its record can't be read: the sockets are still its
			}
			return vem.Drop
		}
		if s := a.Status(); s == app.Running || s == app.Stopped {
			return vem.Drop
		}
		return vem.Keep
	})
}

func (d *Daemon) recoverApp(ctx context.Context, a *App) error {
	release, err := a.Take(ctx, "recover")
	if err != nil {
		return err
	}
	defer release()
	patience, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	if err := a.subject().AwaitCRIU(patience); err != nil {
		return err
	}
	if err := errors.Join(snapshot.Sweep(a.Dir()), snapshot.Sweep(a.work())); err != nil {
		return err
	}
	rec, _ := a.Read()
	if d.unfinished(rec) {
		return d.expunge(ctx, a)
	}
	switch rec.Status {
	case app.Creating, app.Restoring, app.Removing, app.Pooled:
		return d.expunge(ctx, a)
	case app.Running:
		return d.recoverRunning(ctx, a)
	case app.Snapshotting:
		if err := errors.Join(a.subject().NetState().EndRepair(ctx), a.subject().PutBackTerminals()); err != nil {
			return err
		}
		if err := a.cgroup().Thaw(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := a.Step(app.Running, journal.UntilReboot, nil); err != nil {
			return err
		}
		return d.recoverRunning(ctx, a)
	case app.Hibernating:
		if openAlive(rec.Process) {
			if err := d.undoHibernate(ctx, a); err != nil {
				return err
			}
			return d.recoverRunning(ctx, a)
		}
		if _, err := a.hibernation().Manifest(); err != nil {
			// It died before the commit, by itself.
			return d.stopped(ctx, a, "ended while it was hibernated")
		}
		if err := a.cgroup().Kill(ctx); err != nil {
			return err
		}
		if err := d.recoverHeld(ctx, a); err != nil {
			return err
		}
		d.becomeHeld(ctx, a)
		return a.whatIsLost()
	case app.Held, app.Waking:
		// A wake may have begun: it is not written, but for what earlier versions wrote.
		if err := a.cgroup().Kill(ctx); err != nil {
			return err
		}
		if err := d.recoverHeld(ctx, a); err != nil {
			return err
		}
		if err := d.undoWake(ctx, a); err != nil {
			return err
		}
		d.arm(ctx, a)
		return a.whatIsLost()
	case app.Resuming:
		return d.recoverResuming(ctx, a)
	case app.Stopped:
		return errors.Join(d.settleRestack(ctx, a), d.takeDown(ctx, a))
	}
	return nil
}

func openAlive(r process.Identity) bool {
	p := r.Open()
	if p == nil {
		return false
	}
	_ = p.Close()
	return true
}

// recoverRunning takes up a running app again, or notices that it has ended.
func (d *Daemon) recoverRunning(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	proc := rec.Process.Open()
	if proc == nil {
		return d.stopped(ctx, a, "ended while no snapctld ran")
	}
	d.follow(a, proc)
	ns, err := d.prepare(ctx, a)
	if err != nil {
		return err
	}
	// A finished wake may not have let go of what it held.
	return errors.Join(ns.Close(), a.release(ctx), a.hibernation().Remove())
}

// recoverHeld gets a held app's sockets back and repairs its sandbox, of which
// a reboot leaves only what is on the disk.
func (d *Daemon) recoverHeld(ctx context.Context, a *App) error {
	if err := a.reclaim(ctx); err != nil {
		return err
	}
	if err := a.subject().NetState().EndRepair(ctx); err != nil { // a snapshot of the held app was being taken
		return err
	}
	if err := d.settleRestack(ctx, a); err != nil {
		return err
	}
	ns, err := d.prepare(ctx, a)
	if err != nil {
		return err
	}
	if err := ns.Close(); err != nil {
		return err
	}
	if fresh, err := a.subject().FreshDev(); err != nil || !fresh {
		return err
	}
	return a.subject().LoadDev(ctx, a.hibernation())
}

// recoverResuming finishes a wake whose processes may have run: they have, if
// they exist. CRIU, which has ended, kills them if it can't let them run.
func (d *Daemon) recoverResuming(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	if !openAlive(rec.Process) {
		if err := d.recoverHeld(ctx, a); err != nil {
			return err
		}
		return errors.Join(d.undoWake(ctx, a), a.whatIsLost())
	}
	if err := a.Settle(app.Running, journal.UntilReboot, nil); err != nil {
		return err
	}
	return d.recoverRunning(ctx, a)
}
