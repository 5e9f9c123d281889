package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/snapctl/snapctl/runtime/app"
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
	Box      *sandbox.Sandbox
	Endpoint *vem.Endpoint // its place in its network

	// Only the holder of the turn uses these.
	proc  *process.Process
	ended chan struct{} // closed when proc has ended
	ready bool          // this daemon has prepared the sandbox, see Prepared

	sessions checkpoint.Sessions // see Attended

	mu   sync.Mutex // guards exit
	exit process.ExitStatus
}

func (eng *Engine) newApp(rec app.Record) *App {
	place := rec.DirName()
	runDir := filepath.Join(eng.runDir, "apps", place)
	a := &App{App: app.New(eng.appDir(place), runDir, rec)}
	a.Box = sandbox.New(sandbox.Config{
		Name: place, StateDir: a.Dir(), RunDir: runDir,
		Hide: eng.hidden, Cgroups: eng.Cgroups, Spec: rec.Spec, Log: eng.log,
		Layers: func(ctx context.Context) ([]string, error) {
			rec, _ := a.Read()
			dirs, err := eng.Storage.Dirs(ctx, stackOf(&rec))
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

// Root is where the app's files are mounted, while they are.
func (a *App) Root() string { return a.Box.Root() }

// Cgroup is that of the app's processes.
func (a *App) Cgroup() freezer.Cgroup { return freezer.Cgroup(a.Box.Cgroup().Path()) }

// Hibernation is where the images of the held app are.
func (a *App) Hibernation() snapshot.Dir { return snapshot.Dir(filepath.Join(a.Dir(), "hibernation")) }

// work is where CRIU writes its logs for the app.
func (a *App) work() string { return checkpoint.WorkDir(a.Box) }
