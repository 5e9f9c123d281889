// Package daemon is snapctld: it owns the apps of one host and puts the other
// packages together.
//
// Every change of an app is an operation that has the app's turn (app.go). An
// operation persists each step before it takes it, so that a daemon killed at
// any point leaves something that the next one finishes or undoes (recover.go):
//
//	creating --> running -> hibernating -> held -> waking -> resuming -> running
//	restoring -----^ |  \-> snapshotting -> running
//	 |     ^         +----> stopped -> removing
//	 +-> pooled
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/metrics"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
)

// Options configures a daemon.
type Options struct {
	StateDir string // default sandbox.DefaultStateDir
	RunDir   string // default DefaultRunDir
	CRIU     string // the criu program; default: as for criu.Find
	CRIULog  int    // CRIU's log level, default 2
	Prefix4  netip.Prefix
	Prefix6  netip.Prefix
	Version  string
	Log      *slog.Logger
	Metrics  *metrics.Address // where metrics are served; nil: nowhere
}

// DefaultRunDir is where a daemon keeps what does not outlive the host's boot.
const DefaultRunDir = "/run/snapctl"

// SocketName is the name of the API's socket in the run directory.
const SocketName = "snapctl.sock"

// Daemon owns the apps of one host. One runs per state directory.
type Daemon struct {
	opt     Options
	log     *slog.Logger
	criu    criu.Client
	cgroups *cgroup.Tree
	vem     *vem.Manager
	storage *storage.Storage
	store   *store.Store
	hidden  []sandbox.HiddenDir // from apps
	pools   *clone.Pools
	lock    *os.File
	tasks   tasks
	apps    app.Registry[*App]
	catalog *catalog.Catalog
	events  *event.Bus
	endLog  func() // of the events
	// metrics counts events; nil if nobody is to read them.
	metrics *metrics.Metrics
	// criuVersion is written into snapshots.
	criuVersion int
}

// Open starts a daemon: it takes the state directory's lock, connects to the
// holder (or starts it), and brings every app into a lasting status. The
// daemon's background work ends when ctx does; then the caller calls Close.
func Open(ctx context.Context, opt Options) (_ *Daemon, err error) {
	d := &Daemon{
		opt: opt, log: opt.Log, criu: criu.Client{Path: opt.CRIU, LogLevel: int32(opt.CRIULog)},
		pools: clone.New(opt.Log),
	}
	d.tasks.start(ctx)
	d.openEvents()
	d.endLog = d.logEvents(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, dir := range []string{
		opt.StateDir, opt.RunDir, d.appsDir(), d.batchesDir(),
		filepath.Join(opt.RunDir, "apps"), filepath.Join(opt.RunDir, "fabric"),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	if d.lock, err = lockDir(opt.StateDir); err != nil {
		return nil, err
	}
	if d.cgroups, err = cgroup.Open(sandbox.CgroupName(opt.StateDir), opt.RunDir); err != nil {
		return nil, err
	}
	d.vem, err = vem.Open(ctx, vem.Options{
		FabricDir: filepath.Join(opt.RunDir, "fabric"), Default: address.Space{Prefix4: opt.Prefix4, Prefix6: opt.Prefix6},
		Spaces: spaces(filepath.Join(opt.StateDir, "networks")), HolderSocket: filepath.Join(opt.RunDir, "holder.sock"), HolderLog: filepath.Join(opt.RunDir, "holder.log"),
		Run: d.tasks.run, Refilled: func() { d.events.Emit(event.Refilled, event.About{}) }, Log: d.log,
	})
	if err != nil {
		return nil, err
	}
	var candidates []string
	if opt.CRIU != "" {
		candidates = []string{opt.CRIU}
	}
	if d.criu.Path, d.criuVersion, err = criu.Find(ctx, candidates...); err != nil {
		return nil, err
	}
	if d.storage, err = storage.Open(storage.Options{StateDir: opt.StateDir, RunDir: opt.RunDir, Log: d.log}); err != nil {
		return nil, err
	}
	if d.hidden, err = sandbox.HiddenDirs(opt.StateDir, opt.RunDir); err != nil {
		return nil, err
	}
	if d.store, err = d.openStore(); err != nil {
		return nil, err
	}
	if d.catalog, err = catalog.Open(ctx, catalog.Options{Dir: filepath.Join(opt.StateDir, "templates"), Store: d.store, Log: opt.Log}); err != nil {
		return nil, err
	}
	if err := d.recover(ctx); err != nil {
		return nil, err
	}
	d.tasks.run(func(ctx context.Context) { d.storage.Sweep(ctx, storage.Users{Needed: d.needed, Mounted: d.mounted}) })
	d.tasks.run(d.keepPools)
	return d, nil
}

// Close lets go of everything; the apps go on, held sockets stay held.
func (d *Daemon) Close() error {
	defer d.endLog()
	d.tasks.stop()
	var errs []error
	for _, a := range d.apps.List() {
		a.TakeForGood() // only a follower may still have the turn
		if a.proc != nil {
			errs = append(errs, a.proc.Close())
		}
	}
	d.tasks.followers.Wait()
	if d.vem != nil {
		errs = append(errs, d.vem.Close())
	}
	if d.cgroups != nil {
		errs = append(errs, d.cgroups.Delete())
	}
	if d.storage != nil {
		errs = append(errs, d.storage.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

func (d *Daemon) appsDir() string           { return filepath.Join(d.opt.StateDir, "apps") }
func (d *Daemon) appDir(name string) string { return filepath.Join(d.appsDir(), name) }

// openStore opens the saved snapshots.
func (d *Daemon) openStore() (*store.Store, error) {
	return store.Open(store.Options{
		Dir: filepath.Join(d.opt.StateDir, "snapshots"), Memory: d.storage.Memory, Layers: d.storage.Layers, HostFiles: d.storage.HostFiles, Freed: d.storage.SweepSoon,
	})
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
