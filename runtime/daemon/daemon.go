// Package daemon is snapctld: it opens the rooms of which the daemon consists, in their order,
// has the engine finish or undo what an earlier daemon left, serves requests, and closes the
// rooms again. It has no lock; one daemon runs per state directory.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/courier"
	"github.com/snapctl/snapctl/runtime/elsewhere"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/line"
	"github.com/snapctl/snapctl/runtime/metrics"
	"github.com/snapctl/snapctl/runtime/move"
	"github.com/snapctl/snapctl/runtime/move/drain"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/server/afar"
	"github.com/snapctl/snapctl/runtime/sleeper"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/runtime/task"
	"github.com/snapctl/snapctl/snapshot/ahead"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/installation"
)

// Options configures a daemon.
type Options struct {
	StateDir string // default sandbox.DefaultStateDir
	RunDir   string // default DefaultRunDir
	CRIU     string // the criu program; default: as for criu.Find
	CRIULog  int    // CRIU's log level, default 2
	BootFile string // with what tells one boot of the host from others, default vem.DefaultBootFile
	Prefix4  netip.Prefix
	Prefix6  netip.Prefix
	Version  string
	Log      *slog.Logger
	Metrics  *metrics.Address // where metrics are served; nil: nowhere
	// ProbeInterval is how often the ways to other hosts are probed; 0: each second.
	ProbeInterval time.Duration
	// WholeMemory stores again, of each app that is saved, what its last snapshot has of its memory. What
	// an app maps from memory files, since it was restored, is not stored again all the same.
	WholeMemory bool
	// Shortcuts are as in checkpoint.Tools.
	Shortcuts checkpoint.Shortcuts
}

// DefaultRunDir is where a daemon keeps what does not outlive the host's boot.
const DefaultRunDir = "/run/snapctl"

// SocketName is the name of the API's socket in the run directory.
const SocketName = "snapctl.sock"

// Daemon is the daemon of one host.
type Daemon struct {
	opt    Options
	log    *slog.Logger
	lock   *os.File
	tasks  *task.Tasks
	rooms  engine.Rooms
	engine *engine.Engine
	maker  *birth.Maker
	clones *clone.Clones
	hosts  *installation.Installation
	travel
	recovered   chan struct{} // closed when all apps are taken up that an earlier daemon left
	criu        criu.Client
	criuVersion int
	// endListening ends what listens to the events.
	endListening func()
	// metrics counts events; nil if nobody is to read them.
	metrics *metrics.Metrics
}

// travel has what goes to other hosts, and comes from there.
type travel struct {
	mover   *move.Mover
	drainer *drain.Drainer
	courier *courier.Courier
	lines   *line.Switchboard // by which other hosts make requests
	front   *afar.Service     // has other hosts do what they are to do, and this one all else
}

// Open starts a daemon: it takes the state directory's lock, connects to the
// holder (or starts it), and brings every app into a lasting status. The
// daemon's background work ends when ctx does; then the caller calls Close.
func Open(ctx context.Context, opt Options) (_ *Daemon, err error) {
	d := &Daemon{opt: opt, log: opt.Log, tasks: task.NewTasks(ctx), recovered: make(chan struct{})}
	d.openEvents()
	endLog, endGC := d.logEvents(ctx), d.collectGarbage(ctx)
	d.endListening = func() {
		endLog()
		endGC()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, dir := range []string{opt.StateDir, opt.RunDir, filepath.Join(opt.RunDir, "fabric")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	if d.lock, err = lockDir(opt.StateDir); err != nil {
		return nil, err
	}
	if err := d.openRooms(ctx); err != nil {
		return nil, err
	}
	if err := d.openHosts(ctx); err != nil {
		return nil, err
	}
	if err := d.openApps(ctx); err != nil {
		return nil, err
	}
	if err := d.engine.Recover(ctx); err != nil {
		return nil, err
	}
	if err := d.clones.Recover(); err != nil {
		return nil, err
	}
	if err := d.courier.Sweep(ctx); err != nil {
		return nil, err
	}
	close(d.recovered)
	d.hosts.Recovered(ctx)
	d.engine.Start()
	d.tasks.Run(d.clones.KeepPools)
	d.tasks.Run(d.mover.Keep)
	return d, nil
}

// Operations are the tables of all operations that a daemon does: those on apps, of which the
// removal is the last, and then those on templates and requests.
func Operations() []journal.Table {
	apps := engine.Operations()
	return slices.Concat(slices.Insert(apps, len(apps)-1, slices.Concat(birth.Operations(), move.Operations())...), clone.Operations())
}

// openApps opens what apps and their clones are made with. Neither knows an app yet.
func (d *Daemon) openApps(ctx context.Context) (err error) {
	opt := &d.opt
	away := &elsewhere.Waker{Self: others{d.hosts}.Self, Events: d.rooms.Events, Log: d.log}
	idle := &sleeper.Sleeper{Events: d.rooms.Events, Tasks: d.tasks, Log: d.log}
	d.engine, err = engine.New(d.rooms, engine.Options{
		StateDir: opt.StateDir, RunDir: opt.RunDir, Tasks: d.tasks, Log: d.log,
		Origin:     d.origin(),
		Unfinished: func(rec app.Record) bool { return d.clones.Unfinished(rec) }, ReadyGone: func() { d.clones.Soon() },
		Followed:  idle.Watch,
		Elsewhere: away.Wake,
	})
	if err != nil {
		return err
	}
	idle.Engine, d.maker = d.engine, birth.New(d.engine)
	d.openMover(ctx)
	away.Mover, away.Roomiest = d.mover, func(ctx context.Context) (string, error) { return d.front.Roomiest(ctx) }
	templates, err := catalog.Open(ctx, catalog.Options{Dir: filepath.Join(opt.StateDir, "templates"), Store: d.rooms.Store, Log: d.log})
	if err != nil {
		return err
	}
	d.clones, err = clone.New(clone.Rooms{
		Engine: d.engine, Maker: d.maker, Apps: &d.engine.Apps, Catalog: templates, Store: d.rooms.Store, Events: d.rooms.Events,
		Addresses: d.rooms.VEM.Addresses, Freed: d.rooms.Storage.SweepSoon,
	}, opt.StateDir, d.log)
	if err == nil {
		d.front = d.newFront()
	}
	return err
}

// openRooms opens what the engine works with, from the ground up.
func (d *Daemon) openRooms(ctx context.Context) (err error) {
	opt, r := &d.opt, &d.rooms
	boot := vem.BootID(cmp.Or(opt.BootFile, vem.DefaultBootFile))
	if boot == "" {
		return fmt.Errorf("read which boot of the host this is: nothing in %s", opt.BootFile)
	}
	if r.Cgroups, err = cgroup.Open(sandbox.CgroupName(opt.StateDir), opt.RunDir); err != nil {
		return err
	}
	r.VEM, err = vem.Open(ctx, vem.Options{
		FabricDir: filepath.Join(opt.RunDir, "fabric"), Default: address.Space{Prefix4: opt.Prefix4, Prefix6: opt.Prefix6},
		Spaces: spaces(filepath.Join(opt.StateDir, "networks")), HolderSocket: filepath.Join(opt.RunDir, "holder.sock"), HolderLog: filepath.Join(opt.RunDir, "holder.log"),
		Boot: boot, Run: d.tasks.Run, Refilled: func() { r.Events.Emit(event.Refilled, event.About{}) }, Log: d.log,
	})
	if err != nil {
		return err
	}
	var candidates []string
	if opt.CRIU != "" {
		candidates = []string{opt.CRIU}
	}
	d.criu = criu.Client{LogLevel: int32(opt.CRIULog)}
	if d.criu.Path, d.criuVersion, err = criu.Find(ctx, candidates...); err != nil {
		return err
	}
	if r.Storage, err = storage.Open(storage.Options{StateDir: opt.StateDir, RunDir: opt.RunDir, Log: d.log}); err != nil {
		return err
	}
	r.Store, err = store.Open(store.Options{
		Dir:    filepath.Join(opt.StateDir, "snapshots"),
		Memory: r.Storage.Memory, Layers: r.Storage.Layers, HostFiles: r.Storage.HostFiles, Freed: r.Storage.SweepSoon,
	})
	if shortcuts := &opt.Shortcuts; shortcuts.CopyAhead > 0 {
		if err := ahead.Supported(); err != nil {
			d.log.InfoContext(ctx, "apps stand still while all of their memory is saved, see snapctl doctor", slog.Any("reason", err))
			shortcuts.CopyAhead = 0
		}
	}
	tools := &checkpoint.Tools{CRIU: d.criu, Cgroups: r.Cgroups, Memory: r.Storage.Memory, Layers: r.Storage.Layers, HostFiles: r.Storage.HostFiles, Log: d.log, Shortcuts: opt.Shortcuts}
	if !opt.WholeMemory {
		tools.Last = r.Store.Last
	}
	r.Tools, r.Checker = tools, &restorable.Checker{Tools: tools, Store: r.Store}
	return err
}

// Close lets go of everything; the apps go on, held sockets stay held.
func (d *Daemon) Close() error {
	defer d.endListening()
	d.tasks.Stop()
	var errs []error
	if d.engine != nil {
		errs = append(errs, d.engine.Close())
	}
	if d.hosts != nil {
		errs = append(errs, d.hosts.Close())
	}
	if d.rooms.VEM != nil {
		errs = append(errs, d.rooms.VEM.Close())
	}
	if d.rooms.Cgroups != nil {
		errs = append(errs, d.rooms.Cgroups.Delete())
	}
	if d.rooms.Storage != nil {
		errs = append(errs, d.rooms.Storage.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// errLocked is a state directory that another daemon uses.
var errLocked = errors.New("another snapctld uses this state directory")

// lockDir takes the state directory for this daemon, for as long as the file
// is open.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errLocked
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}
