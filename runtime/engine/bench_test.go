package engine

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/storage"
	"github.com/snapctl/snapctl/runtime/task"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/freezer"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/wake"
)

// bench is an engine with all of its rooms, as a daemon opens them. CRIU alone is a fake.
type bench struct {
	dir   string
	eng   *Engine
	criu  *fakeCRIU
	tasks *task.Tasks
}

// noSpaces has networks keep no address space.
type noSpaces struct{}

func (noSpaces) Load(string) (address.Space, error) { return address.Space{}, fs.ErrNotExist }
func (noSpaces) Save(string, address.Space) error   { return nil }
func (noSpaces) Count() (int, error)                { return 0, nil }

// openBench opens the rooms in a directory, in which an earlier bench may have left apps.
func openBench(ctx context.Context, dir string) (*bench, error) {
	b := &bench{dir: dir, tasks: task.NewTasks(ctx)}
	state, run, log := filepath.Join(dir, "state"), filepath.Join(dir, "run"), slog.New(slog.DiscardHandler)
	if os.Getenv("ENGINE_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for _, d := range []string{state, filepath.Join(run, "fabric")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	r := Rooms{Events: event.NewBus(nil)}
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
	b.criu = &fakeCRIU{Tools: &checkpoint.Tools{Cgroups: r.Cgroups, Memory: r.Storage.Memory, Layers: r.Storage.Layers, HostFiles: r.Storage.HostFiles, Log: log}}
	r.Tools, r.Checker = b.criu, &restorable.Checker{Tools: b.criu, Store: r.Store}
	b.eng, err = New(r, Options{
		StateDir: state, RunDir: run, Tasks: b.tasks, Log: log,
		Unfinished: func(rec app.Record) bool { return rec.Batch == "unfinished" }, ReadyGone: func() {}, Followed: func(*App, <-chan struct{}) {},
	})
	return b, err
}

// close closes the engine and its rooms, in the order in which a daemon does. The apps go on.
func (b *bench) close() error {
	b.tasks.Stop()
	eng := b.eng
	return errors.Join(eng.Close(), eng.VEM.Close(), eng.Cgroups.Delete(), eng.Storage.Close())
}

// operation is one that is told to nobody.
func (b *bench) operation(k event.Kind) *event.Operation { return b.eng.Events.Begin(k, event.About{}) }

// record is that of an app whose program has these arguments.
func record(name string, args ...string) app.Record {
	return app.Record{
		Identity: app.Identity{Name: name},
		Spec: &specs.Spec{
			Root: &specs.Root{Path: os.Getenv(insideEnv)}, Hostname: name,
			Process: &specs.Process{Args: append([]string{"/app", "program"}, args...), Cwd: "/", Env: []string{"GOMAXPROCS=1"}},
		},
		Policy: app.Policy{Wake: wake.Policy{Mode: wake.Never}},
	}
}

// fakeCRIU saves nothing of the processes of an app, and starts the app's program anew to revive it.
// It comes to the same steps as the real tools, in the same order, and has sockets held as they do.
type fakeCRIU struct {
	*checkpoint.Tools
	alarm   *alarm.Alarm // the first timer of what is hibernated
	changed int          // how often an app is still going to change before it is frozen
	before  func()       // is called before an app is frozen; may be nil
}

func group(s *checkpoint.Subject) freezer.Cgroup { return freezer.Cgroup(s.Box.Cgroup().Path()) }

// errEnded is an app that has ended before it was frozen.
var errEnded = errors.New("process 1 has ended meanwhile")

// freeze freezes an app, and lists its processes.
func freeze(ctx context.Context, s *checkpoint.Subject) ([]int, error) {
	if err := group(s).Freeze(ctx); err != nil {
		return nil, err
	}
	pids, err := group(s).PIDs()
	if err == nil && len(pids) == 0 {
		err = errEnded
	}
	return pids, err
}

// Hibernate implements [Tools].
func (f *fakeCRIU) Hibernate(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving) (_ *checkpoint.Taken, err error) {
	if f.before != nil {
		f.before()
	}
	if f.changed > 0 {
		f.changed--
		return nil, checkpoint.ErrChanged
	}
	partial, err := snapshot.Begin(o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	began := time.Now()
	o.Step("freeze")
	pids, err := freeze(ctx, s)
	defer func() { err = errors.Join(err, group(s).Thaw()) }()
	if err != nil {
		return nil, err
	}
	if err := keepSockets(ctx, s, o, pids); err != nil {
		return nil, err
	}
	dir, err := f.commit(ctx, partial, o, len(pids))
	if err != nil {
		return nil, err
	}
	return &checkpoint.Taken{Taken: &snapshot.Taken{Dir: dir, Frozen: time.Since(began)}}, group(s).Kill(ctx)
}

// keepSockets has the sockets of an app held.
func keepSockets(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving, pids []int) error {
	if err := o.At(ctx, "frozen"); err != nil {
		return err
	}
	ns, err := netns.Open(s.Box.NetPath())
	if err != nil {
		return err
	}
	defer ns.Close()
	set, err := collect.App(ctx, pids, s.HoldOptions(ns, nil))
	if err != nil {
		return err
	}
	// The log is none of the files that are held: CRIU is told of it.
	set.Objects = slices.DeleteFunc(set.Objects, func(one hold.Object) bool {
		if one.Kind == hold.File {
			err = errors.Join(err, one.File.Close())
		}
		return one.Kind == hold.File
	})
	if err := errors.Join(err, o.At(ctx, "collected")); err != nil {
		return errors.Join(err, set.Close())
	}
	if err := o.Hold(ctx, set); err != nil {
		return err
	}
	return o.At(ctx, "held")
}

// commit gives what was saved its name.
func (f *fakeCRIU) commit(ctx context.Context, partial *snapshot.Partial, o checkpoint.Saving, processes int) (_ snapshot.Dir, err error) {
	if err := os.WriteFile(filepath.Join(partial.Dir().Images(), "processes"), []byte("saved"), 0o600); err != nil {
		return "", err
	}
	if err := o.At(ctx, "dumped"); err != nil {
		return "", err
	}
	m := o.Manifest
	m.Processes, m.Alarm = processes, f.alarm
	if o.Hold == nil { // a copy
		m.WithStorage = true
		if err := o.At(ctx, "written"); err != nil {
			return "", err
		}
	} else if o.Alarm != nil {
		if err := o.Alarm(f.alarm); err != nil {
			return "", err
		}
	}
	if err := o.At(ctx, "adopted"); err != nil {
		return "", err
	}
	dir, err := partial.Commit(ctx, &m)
	if err != nil {
		return "", err
	}
	if err := o.At(ctx, "saved"); err != nil {
		return "", errors.Join(err, dir.Remove())
	}
	return dir, nil
}

// Copy implements [Tools].
func (f *fakeCRIU) Copy(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving) (_ *checkpoint.Taken, err error) {
	partial, err := snapshot.Begin(o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, partial.Discard()) }()
	o.Step("freeze")
	pids, err := freeze(ctx, s)
	defer func() { err = errors.Join(err, group(s).Thaw()) }()
	if err != nil {
		return nil, err
	}
	if err := o.At(ctx, "repairing"); err != nil {
		return nil, err
	}
	dir, err := f.commit(ctx, partial, o, len(pids))
	if err != nil {
		return nil, err
	}
	if o.End {
		err = group(s).Kill(ctx)
	}
	return &checkpoint.Taken{Taken: &snapshot.Taken{Dir: dir}}, err
}

// Revive implements [Tools].
func (f *fakeCRIU) Revive(ctx context.Context, s *checkpoint.Subject, r checkpoint.Revival) (_ *process.Process, err error) {
	r.Step("prepare sandbox")
	ns, err := r.Enclose(ctx)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, group(s).Kill(context.WithoutCancel(ctx)), process.Reap(s.Box.Cgroup().Name()))
		}
	}()
	if err := r.At(ctx, "starting"); err != nil {
		return nil, err
	}
	launch, err := s.Box.Launch(ctx, ns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, launch.Close()) }()
	if r.Meanwhile != nil {
		if err := r.Meanwhile(ctx); err != nil {
			return nil, err
		}
	}
	if r.Connect != nil {
		if err := r.Connect(ctx, ns); err != nil {
			return nil, err
		}
	}
	if r.Ready != nil {
		pids, err := group(s).PIDs()
		if err != nil {
			return nil, err
		}
		if err := r.Ready(ctx, pids[0]); err != nil {
			return nil, err
		}
	}
	proc, err := launch.Run()
	if err == nil && r.Frozen {
		err = group(s).Freeze(ctx)
	}
	return proc, err
}

// Rehearse implements [Tools].
func (f *fakeCRIU) Rehearse(context.Context, *checkpoint.Subject, snapshot.Dir, *snapshot.Manifest) error {
	return nil
}

// reapAll reaps all processes that have ended and whose parent is gone.
func reapAll() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}
