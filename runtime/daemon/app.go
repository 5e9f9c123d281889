package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/vem"
)

// App is one app of this daemon, with what it has of it while it runs or is held.
type App struct {
	*app.App
	box *sandbox.Sandbox
	end *vem.Endpoint // its place in its network

	// Only the holder of the turn uses these.
	proc  *process.Process
	ended chan struct{} // closed when proc has ended
	ready bool          // this daemon has prepared the sandbox, see prepared

	pool *catalog.Template // that it stands ready for; does not change

	sessions sessions // see attended

	mu    sync.Mutex // guards what follows
	exit  process.ExitStatus
	awake string // why it is not hibernated, though it is to be when it is idle
}

func (d *Daemon) newApp(rec app.Record) *App {
	place := rec.DirName()
	a := &App{App: app.New(d.appDir(place), rec)}
	a.box = sandbox.New(sandbox.Config{
		Name: place, StateDir: a.Dir(), RunDir: filepath.Join(d.opt.RunDir, "apps", place),
		Hide: d.hidden, Cgroups: d.cgroups, Spec: rec.Spec, Log: d.log,
		Layers: func(ctx context.Context) ([]string, error) {
			rec, _ := a.Read()
			dirs, err := d.storage.Dirs(ctx, stackOf(&rec))
			if errors.Is(err, storage.ErrUnstackable) {
				err = fmt.Errorf("app %s shares files: %w", rec.Name, err)
			}
			return dirs, err
		},
	})
	return a
}

// stackOf is what an app has below its own files.
func stackOf(rec *app.Record) storage.Stack {
	return storage.Stack{Layers: rec.Layers, Root: rec.Spec.Root.Path}
}

// unstackable takes the layers out of a record of which the app needs copies, and returns where they
// are.
func (d *Daemon) unstackable(ctx context.Context, rec *app.Record) ([]string, error) {
	copied, err := d.storage.Copies(ctx, stackOf(rec))
	if len(copied) > 0 {
		rec.Layers = nil
	}
	return copied, err
}

func (a *App) cgroup() freezer.Cgroup { return freezer.Cgroup(a.box.Cgroup().Path()) }

// hibernation is where the images of the held app are.
func (a *App) hibernation() snapshot.Dir { return snapshot.Dir(filepath.Join(a.Dir(), "hibernation")) }

// work is where CRIU writes its logs for the app.
func (a *App) work() string { return checkpoint.WorkDir(a.box) }
