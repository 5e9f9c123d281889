package engine

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

// Recover ends what an earlier daemon left in the middle of an operation, and takes up the apps
// that there are then.
func (eng *Engine) Recover(ctx context.Context) error {
	entries, err := os.ReadDir(eng.appsDir())
	if err != nil {
		return fmt.Errorf("list apps: %w", err)
	}
	for _, e := range entries {
		if err := eng.load(ctx, e.Name()); err != nil {
			// One bad app keeps no other from its daemon.
			eng.log.ErrorContext(ctx, "recover app", slog.String("app", e.Name()), slog.Any("error", err))
		}
	}
	// Each mostly waits for the kernel, some 10 ms: several at once.
	var g errgroup.Group
	g.SetLimit(8)
	for _, a := range eng.Apps.List() {
		g.Go(func() error {
			if err := eng.recoverApp(ctx, a); err != nil {
				a.Note(err)
				eng.log.ErrorContext(ctx, "recover app", slog.String("app", a.Name()), slog.Any("error", err))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return eng.dropOrphans(ctx)
}

func (eng *Engine) load(_ context.Context, name string) error {
	dir := eng.appDir(name)
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
		if aside, err := app.Read(filepath.Join(eng.runDir, "apps", name)); err == nil {
			if err := aside.Write(dir, journal.Forever); err != nil {
				return err
			}
			rec = aside
		}
	}
	a := eng.newApp(*rec)
	a.Endpoint = eng.adoptEndpoint(a, rec)
	eng.Apps.Add(a)
	return nil
}

// dropOrphans has the holder drop the sockets of apps that are gone.
func (eng *Engine) dropOrphans(ctx context.Context) error {
	places := make(map[string]*App)
	for _, a := range eng.Apps.List() {
		places[a.Box.Name] = a
	}
	return eng.VEM.DropOrphans(ctx, func(name string) vem.Fate {
		a, ok := places[name]
		if !ok {
			if _, err := os.Lstat(eng.appDir(name)); err == nil {
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

func (eng *Engine) recoverApp(ctx context.Context, a *App) error {
	release, err := a.Take(ctx, "recover")
	if err != nil {
		return err
	}
	defer release()
	patience, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	if err := a.Subject().AwaitCRIU(patience); err != nil {
		return err
	}
	if err := errors.Join(snapshot.Sweep(a.Dir()), snapshot.Sweep(a.work())); err != nil {
		return err
	}
	rec, _ := a.Read()
	if eng.unfinished(rec) {
		return eng.Expunge(ctx, a)
	}
	if err := eng.endOpen(ctx, a); err != nil || a.Gone() {
		return err
	}
	if rec.Operation.Kind == hibernateTable.Name && a.Status() == app.Held {
		return eng.await(ctx, a) // to finish it was to take the app up
	}
	return eng.takeUp(ctx, a)
}

// takeUp goes on with an app of an earlier daemon that has no open operation.
func (eng *Engine) takeUp(ctx context.Context, a *App) error {
	switch a.Status() { //nolint:exhaustive // the others do not last
	case app.Pooled:
		return eng.Expunge(ctx, a)
	case app.Running:
		return eng.recoverRunning(ctx, a)
	case app.Held:
		if rec, _ := a.Read(); rec.Volatile && rec.Boot != eng.VEM.Boot() {
			return eng.stopHeld(ctx, a, "ended with the host's boot, while it was to move")
		}
		// A wake may have begun: that is not written.
		if err := a.Cgroup().Kill(ctx); err != nil {
			return err
		}
		if err := eng.recoverHeld(ctx, a); err != nil {
			return err
		}
		return eng.await(ctx, a)
	case app.Stopped:
		return eng.takeDown(ctx, a)
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
func (eng *Engine) recoverRunning(ctx context.Context, a *App) error {
	rec, _ := a.Read()
	proc := rec.Process.Open()
	if proc == nil {
		return eng.stopped(ctx, a, "ended while no snapctld ran")
	}
	eng.follow(a, proc)
	if err := eng.Reopen(ctx, a); err != nil {
		return err
	}
	// A finished wake may not have let go of what it held.
	return errors.Join(a.release(ctx), a.Hibernation().Remove(), a.Endpoint.Admitted())
}

// recoverHeld gets a held app's sockets back and repairs its sandbox, of which
// a reboot leaves only what is on the disk.
func (eng *Engine) recoverHeld(ctx context.Context, a *App) error {
	if err := a.Reclaim(ctx); err != nil {
		return err
	}
	if err := a.Subject().NetState().EndRepair(ctx); err != nil { // a snapshot of the held app was being taken
		return err
	}
	if err := eng.Reopen(ctx, a); err != nil {
		return err
	}
	if fresh, err := a.Subject().FreshDev(); err != nil || !fresh {
		return err
	}
	return a.Subject().LoadDev(ctx, a.Hibernation())
}
