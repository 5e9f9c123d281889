package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/vem/hold"
)

// App is one app of this daemon.
//
// turn is the operation queue: the operation that has taken it may change the app, and takes
// no other app's turn. mu only guards what others may read meanwhile.
type App struct {
	turn chan struct{} // holds one token while an operation goes on
	dir  string        // its state directory
	box  *sandbox.Sandbox

	// Only the holder of the turn uses these.
	proc     *process.Process
	ended    chan struct{} // closed when proc has ended
	held     *hold.Set     // changed by setHeld
	lost     string        // why the held app has no sockets, "" if it has
	watch    *watch
	failures failures
	ready    bool // this daemon has prepared the sandbox, see prepared
	gone     bool // nothing is left of it: its name may be another app's
	aside    bool // its record proper is not its last one, see recordAside
	// surprised: when frozen, it had what CRIU was not told of, see unannounced.
	surprised bool

	pool     *tmpl // that it stands ready for; does not change
	detached bool  // from its network; the daemon's mu guards it

	sessions sessions // see attended

	keeping chan struct{} // holds one token while exclusively runs

	mu  sync.Mutex
	rec app.Record
	op  string // the operation that has the turn
	// remarks are what that operation has to tell, see remark.
	remarks []app.Note
	hint    string // what to do about rec.LastError, if this daemon has noted it
	exit    process.ExitStatus
	inodes  map[uint64]bool // of the sockets that are held
	awake   string          // why it is not hibernated, though it is to be when it is idle
}

// errBusy is an operation that did not get its turn in time.
var errBusy = errors.New("busy")

func (d *Daemon) newApp(rec app.Record) *App {
	place := rec.DirName()
	a := &App{turn: make(chan struct{}, 1), keeping: make(chan struct{}, 1), rec: rec, dir: d.appDir(place)}
	a.box = sandbox.New(sandbox.Config{
		Name: place, StateDir: a.dir, RunDir: filepath.Join(d.opt.RunDir, "apps", place),
		Hide: d.hidden, Cgroups: d.cgroups, Spec: rec.Spec, Log: d.log,
		Layers: func(ctx context.Context) ([]string, error) {
			rec, _ := a.read()
			return d.lowerDirs(ctx, rec)
		},
	})
	return a
}

// take waits for the app's turn and returns a function that gives it back.
// Returns an error wrapping errBusy, that names the operation in the way, if
// ctx ends first.
func (a *App) take(ctx context.Context, op string) (release func(), err error) {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		return nil, fmt.Errorf("%s %s: %w: %s is going on: %w", op, a.rec.Name, errBusy, a.op, ctx.Err())
	}
	return a.taken(op), nil
}

// tryTake takes the app's turn if it is free.
func (a *App) tryTake(op string) (release func(), ok bool) {
	select {
	case a.turn <- struct{}{}:
		return a.taken(op), true
	default:
		return nil, false
	}
}

// taken notes which operation has the turn, and returns a function that gives the turn back.
func (a *App) taken(op string) (release func()) {
	a.mu.Lock()
	a.op, a.remarks = op, nil
	a.mu.Unlock()
	return func() {
		a.mu.Lock()
		a.op = ""
		a.mu.Unlock()
		<-a.turn
	}
}

// read returns a copy of what is known about the app.
func (a *App) read() (rec app.Record, op string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec, a.op
}

// name is the app's present name; box.Name is that of its directories and cgroup.
func (a *App) name() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.Name
}

// status is the app's present status.
func (a *App) status() app.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.Status
}

// pages is how the app's memory comes back.
func (a *App) pages() restore.Pages {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.RestoreMemory
}

// step persists a new status, together with what change does to the record.
// If it fails the app's status is the old one.
func (a *App) step(to app.Status, durable journal.Durability, change func(*app.Record)) error {
	rec, _ := a.read()
	if err := rec.Status.May(rec.Name, to); err != nil {
		return err
	}
	rec.Status, rec.StatusAt = to, time.Now()
	if change != nil {
		change(&rec)
	}
	if a.aside && to != app.Removing { // after a power cut it would never have been handed out
		durable = journal.Forever
	}
	if err := rec.Write(a.dir, durable); err != nil {
		return err
	}
	a.aside = false
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rec = rec
	return nil
}

// assume changes the status in memory only. It is for steps after which recovery would do
// the same as before them, so that writing the record would gain nothing.
func (a *App) assume(to app.Status, change func(*app.Record)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.rec.Status.May(a.rec.Name, to); err != nil {
		return err
	}
	a.rec.Status, a.rec.StatusAt = to, time.Now()
	if change != nil {
		change(&a.rec)
	}
	return nil
}

// settle is for a step that has happened already. If it can't be persisted, the app has the
// new status all the same for as long as this daemon runs. The next daemon finds out by
// itself what has happened.
func (a *App) settle(to app.Status, durable journal.Durability, change func(*app.Record)) error {
	err := a.step(to, durable, change)
	var illegal *app.StepError
	if err == nil || errors.As(err, &illegal) {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rec.Status, a.rec.StatusAt = to, time.Now()
	if change != nil {
		change(&a.rec)
	}
	return err
}

// change persists a change of the record that is no step. If it fails nothing has
// changed.
func (a *App) change(change func(*app.Record)) error {
	rec, _ := a.read()
	change(&rec)
	if err := rec.Write(a.dir, journal.Forever); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rec = rec
	return nil
}

// note keeps an error that nobody waits for, to be shown with the app.
func (a *App) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rec.LastError, a.hint = "", hint(err)
	if err != nil {
		a.rec.LastError = withDetails(err)
	}
}

// advice is what can be done about the error that was noted last.
func (a *App) advice() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hint
}

func (a *App) cgroup() freezer.Cgroup { return freezer.Cgroup(a.box.Cgroup().Path()) }

// hibernation is where the images of the held app are.
func (a *App) hibernation() snapshot.Dir { return snapshot.Dir(filepath.Join(a.dir, "hibernation")) }

// work is where CRIU writes its logs for the app.
func (a *App) work() string { return filepath.Join(a.box.RunDir, "work") }
