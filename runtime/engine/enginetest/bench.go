package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/runtime/task"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/wake"
)

// Bench is an engine with all of its rooms, as a daemon opens them. CRIU alone is a fake.
type Bench struct {
	Dir    string // its files are below it
	Engine *engine.Engine
	CRIU   *CRIU
	tasks  *task.Tasks
}

// noSpaces has networks keep no address space.
type noSpaces struct{}

func (noSpaces) Load(string) (address.Space, error) { return address.Space{}, fs.ErrNotExist }
func (noSpaces) Save(string, address.Space) error   { return nil }
func (noSpaces) Count() (int, error)                { return 0, nil }

// OpenBench opens the rooms in a directory, in which an earlier bench may have left apps.
func OpenBench(ctx context.Context, dir string) (*Bench, error) {
	b := &Bench{Dir: dir, tasks: task.NewTasks(ctx)}
	state, run, log := filepath.Join(dir, "state"), filepath.Join(dir, "run"), slog.New(slog.DiscardHandler)
	if os.Getenv("ENGINE_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for _, d := range []string{state, filepath.Join(run, "fabric")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	r := engine.Rooms{Events: event.NewBus(nil)}
	var err error
	if r.Cgroups, err = cgroup.Open(sandbox.CgroupName(state), run); err != nil {
		return nil, err
	}
	r.VEM, err = vem.Open(ctx, vem.Options{
		FabricDir: filepath.Join(run, "fabric"), Spaces: noSpaces{},
		Default:      address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64")},
		HolderSocket: filepath.Join(run, "holder.sock"), HolderLog: filepath.Join(run, "holder.log"), Run: b.tasks.Run, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if r.Storage, err = storage.Open(storage.Options{StateDir: state, RunDir: run, Log: log}); err != nil {
		return nil, err
	}
	r.Store, err = store.Open(store.Options{
		Dir: filepath.Join(state, "snapshots"), Memory: r.Storage.Memory, Layers: r.Storage.Layers, HostFiles: r.Storage.HostFiles, Freed: r.Storage.SweepSoon,
	})
	if err != nil {
		return nil, err
	}
	b.CRIU = &CRIU{Tools: &checkpoint.Tools{Cgroups: r.Cgroups, Memory: r.Storage.Memory, Layers: r.Storage.Layers, HostFiles: r.Storage.HostFiles, Log: log}}
	r.Tools, r.Checker = b.CRIU, &restorable.Checker{Tools: b.CRIU, Store: r.Store}
	b.Engine, err = engine.New(r, engine.Options{
		StateDir: state, RunDir: run, Tasks: b.tasks, Log: log,
		Unfinished: func(rec app.Record) bool { return rec.Batch == "unfinished" }, ReadyGone: func() {}, Followed: func(*engine.App, <-chan struct{}) {},
	})
	return b, err
}

// Close closes the engine and its rooms, in the order in which a daemon does. The apps go on.
func (b *Bench) Close() error {
	b.tasks.Stop()
	eng := b.Engine
	return errors.Join(eng.Close(), eng.VEM.Close(), eng.Cgroups.Delete(), eng.Storage.Close())
}

// Operation is one that is told to nobody.
func (b *Bench) Operation(k event.Kind) *event.Operation {
	return b.Engine.Events.Begin(k, event.About{})
}

// Record is that of an app whose program has these arguments.
func Record(name string, args ...string) app.Record {
	return app.Record{
		Identity: app.Identity{Name: name},
		Spec: &specs.Spec{
			Root: &specs.Root{Path: os.Getenv(insideEnv)}, Hostname: name,
			Process: &specs.Process{Args: append([]string{"/app", "program"}, args...), Cwd: "/", Env: []string{"GOMAXPROCS=1"}},
		},
		Policy: app.Policy{Wake: wake.Policy{Mode: wake.Never}},
	}
}

// reapAll reaps all processes that have ended and whose parent is gone.
func reapAll() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}

// Base saves an app as "base". The app goes on, so that the network does.
func (b *Bench) Base(ctx context.Context) error {
	a, err := b.Ready(ctx, "base")
	if err != nil {
		return err
	}
	_, _, err = b.Engine.TakeSnapshot(ctx, a, engine.SnapshotRequest{Name: "base", Op: b.Operation(event.Snapshot)})
	return err
}

// Ready runs an app whose program listens.
func (b *Bench) Ready(ctx context.Context, name string, args ...string) (*engine.App, error) {
	a, err := b.Engine.Run(ctx, Record(name, args...))
	if err != nil {
		return nil, err
	}
	return a, Await("the program listens", func() bool { return Listens(a) })
}

// Listens tells whether the program of an app does.
func Listens(a *engine.App) bool {
	ns, err := netns.Open(a.Box.NetPath())
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}}), unix.Close(fd))
	}) == nil
}

// Patience is how long is waited for what is to come.
const Patience = 30 * time.Second

// Await asks again until something is so.
func Await(what string, is func() bool) error {
	end, tick := time.After(Patience), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			return fmt.Errorf("it never came: %s", what)
		}
	}
	return nil
}
