package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/runtime/task"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem"
)

// DefaultTimeout is how long an operation may take that names no other time.
const DefaultTimeout = 5 * time.Minute

// Rooms are what an engine works with. Whoever opens them closes them, after the engine.
type Rooms struct {
	Tools   Tools
	Checker *restorable.Checker
	Cgroups *cgroup.Tree
	VEM     *vem.Manager
	Storage *storage.Storage
	Store   *store.Store
	Events  *event.Bus
}

// Options says where an engine keeps what.
type Options struct {
	StateDir, RunDir string
	Origin           snapshot.Origin // of snapshots that are taken here
	Tasks            *task.Tasks
	Log              *slog.Logger
	// Unfinished tells whether an app was made together with others by a request that was
	// never over: Recover removes it.
	Unfinished func(app.Record) bool
	// ReadyGone is called when an app that stood ready has ended, or was removed so that
	// another one gets its address. It must return at once.
	ReadyGone func()
	// Followed is called when the engine has begun to follow the process of an app, and when
	// one that stood ready was handed out, see [Engine.HandedOut]. ended is closed when the process has ended. It must
	// return at once.
	Followed func(a *App, ended <-chan struct{})
	// Elsewhere has an app be woken on another host, as its record says, that traffic is to wake: then it has left.
	// If not it is woken here, with notes. May be nil.
	Elsewhere func(ctx context.Context, a *App) (left bool, notes []app.Note)
}

// Engine has the apps of one host. One runs per state directory. Its methods may be called at
// the same time. It has no lock: an app has its turn, and each room what guards it.
type Engine struct {
	Rooms
	Apps app.Registry[*App]

	stateDir, runDir string
	hidden           []sandbox.HiddenDir // from apps
	tasks            *task.Tasks
	log              *slog.Logger
	origin           snapshot.Origin

	// As in Options.
	unfinished func(app.Record) bool
	readyGone  func()
	followed   func(*App, <-chan struct{})
	elsewhere  func(context.Context, *App) (bool, []app.Note)
	kinds      kinds
}

// New returns an engine that knows no app yet, see [Engine.Recover].
func New(rooms Rooms, opt Options) (*Engine, error) {
	eng := &Engine{
		Rooms: rooms, stateDir: opt.StateDir, runDir: opt.RunDir,
		tasks: opt.Tasks, log: opt.Log, origin: opt.Origin, unfinished: opt.Unfinished, readyGone: opt.ReadyGone, followed: opt.Followed, elsewhere: opt.Elsewhere,
	}
	eng.kinds = eng.makeKinds()
	for _, dir := range []string{eng.appsDir(), filepath.Join(opt.RunDir, "apps")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	var err error
	eng.hidden, err = sandbox.HiddenDirs(opt.StateDir, opt.RunDir)
	return eng, err
}

// Start begins what the engine does by itself: it removes what nobody needs. Call it after
// [Engine.Recover].
func (eng *Engine) Start() {
	eng.tasks.Run(func(ctx context.Context) {
		eng.Storage.Sweep(ctx, storage.Users{Needed: eng.needed, Mounted: eng.mounted})
	})
}

// Close lets go of all apps. They go on, and those that are held stay held. The tasks have
// been stopped.
func (eng *Engine) Close() error {
	var errs []error
	for _, a := range eng.Apps.List() {
		a.TakeForGood() // only a follower may still have the turn
		if a.proc != nil {
			errs = append(errs, a.proc.Close())
		}
	}
	eng.tasks.Followed()
	return errors.Join(errs...)
}

func (eng *Engine) appsDir() string           { return filepath.Join(eng.stateDir, "apps") }
func (eng *Engine) appDir(name string) string { return filepath.Join(eng.appsDir(), name) }
