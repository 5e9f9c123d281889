package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem"
)

// world is a server of which a test has the rooms, and a client of it. Its apps and snapshots are
// records and files; what is done with them is what the test says.
type world struct {
	*client.Client
	apps      app.Registry[*engine.App]
	engine    fakeEngine
	obstacles fakeObstacles
	network   fakeNetwork
	templates fakeTemplates
	hosts     fakeHosts
	ways      fakeWays
	drainer   fakeDrainer
	directory fakeDirectory
	store     *store.Store
	layers    *layer.Store
	events    *event.Bus
	dir       string
}

// begin starts a server.
func begin(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), events: event.NewBus(nil)}
	opt := store.Options{Dir: filepath.Join(w.dir, "snapshots"), Freed: func() {}}
	var err [4]error
	opt.Memory, err[0] = memory.Open(filepath.Join(w.dir, "memory"))
	opt.Layers, err[1] = layer.Open(filepath.Join(w.dir, "layers"))
	opt.HostFiles, err[2] = hostfile.Open(filepath.Join(w.dir, "files"))
	w.layers = opt.Layers
	w.store, err[3] = store.Open(opt)
	qt.Assert(t, qt.IsNil(errors.Join(err[:]...)))
	socket := filepath.Join(w.dir, "s")
	l, lerr := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	qt.Assert(t, qt.IsNil(lerr))
	s := New(NewService(Rooms{
		Apps: &w.apps, Operations: &w.engine, Maker: &w.engine, Obstacles: &w.obstacles, Network: &w.network, Hosts: &w.hosts,
		Templates: &w.templates, Clones: &w.templates, Pools: &w.templates, Snapshots: w.store, Layers: opt.Layers, Memory: opt.Memory, Events: w.events, Others: Others{Directory: &w.directory, Ways: &w.ways, Drainer: &w.drainer},
	}, Options{Version: "1.2.3", StateDir: w.dir, RunDir: w.dir, CRIU: "/nowhere/criu", CRIUVersion: 40201, Cgroup: "/snapctl-test", CgroupDir: w.dir}))
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; !errors.Is(err, grpc.ErrServerStopped) { // stopped before it served
			qt.Check(t, qt.IsNil(err))
		}
	})
	w.Client, lerr = client.Dial(t.Context(), socket)
	qt.Assert(t, qt.IsNil(lerr))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(w.Close())) })
	return w
}

// spec is of an app that runs `true`.
func spec() *specs.Spec {
	return &specs.Spec{
		Version: specs.Version, Hostname: "box", Root: &specs.Root{Path: "/"}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}},
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
	}
}

// make returns an app of network "blue" with this record that has no process; see add.
func (w *world) make(t *testing.T, rec app.Record) *engine.App {
	t.Helper()
	if rec.Spec == nil {
		rec.Spec = spec()
	}
	if !rec.Addr4.IsValid() {
		rec.Network, rec.Addr4 = "blue", netip.MustParseAddr("10.77.0.7")
	}
	dir := filepath.Join(w.dir, "apps", rec.Name)
	qt.Assert(t, qt.IsNil(os.MkdirAll(dir, 0o700)))
	a := &engine.App{App: app.New(dir, w.dir, rec), Endpoint: &vem.Endpoint{}}
	a.Box = sandbox.New(sandbox.Config{Name: rec.Name, StateDir: dir, RunDir: filepath.Join(w.dir, "run", rec.Name), Spec: rec.Spec, Cgroups: &cgroup.Tree{}})
	return a
}

// add makes an app known by its name.
func (w *world) add(t *testing.T, name string, status app.Status) *engine.App {
	t.Helper()
	a := w.make(t, app.Record{Identity: app.Identity{Name: name}, State: app.State{Status: status}})
	w.apps.Add(a)
	return a
}

// save writes a snapshot of an app without processes.
func (w *world) save(t *testing.T, name, of string) {
	t.Helper()
	dir, free, err := w.store.Reserve(name, of)
	qt.Assert(t, qt.IsNil(err))
	defer free()
	_, err = snapshot.TakeFiles(t.Context(), snapshot.FilesOptions{
		Target: string(dir), Layers: w.layers,
		Manifest: snapshot.Manifest{
			Name: name, App: of, Spec: spec(), WithStorage: true, CreatedAt: time.Unix(1_800_000_000, 0),
			Address: snapshot.Address{Network: "blue", Endpoint: "10.77.0.9"},
			Policy:  &snapshot.Policy{Wake: "never", HibernateAfter: time.Minute},
		},
		CopyFiles: func(_ context.Context, to snapshot.Dir) error {
			return errors.Join(os.Mkdir(to.Storage(), 0o700), os.WriteFile(filepath.Join(to.Storage(), "index.html"), []byte("<p>"), 0o600))
		},
	})
	qt.Assert(t, qt.IsNil(err))
}

// fakeEngine does with apps what a test says.
type fakeEngine struct {
	run       func(rec app.Record) (*engine.App, error)
	hibernate func(ctx context.Context, a *engine.App, how engine.Sleep, op *event.Operation) (*engine.Outcome, error)
	wake      func(a *engine.App, how engine.Awakening) (*engine.Outcome, error)
	stop      func(a *engine.App, sig unix.Signal, grace time.Duration) error
	remove    func(a *engine.App, force bool) error
	take      func(a *engine.App, req engine.SnapshotRequest) (*snapshot.Manifest, *engine.Outcome, error)
	begin     func(ctx context.Context, name string, depth snapshot.Depth) (*source.Source, error)
	restore   func(req birth.RestoreRequest) (*engine.App, *engine.Outcome, error)
}

var (
	_ Operations = (*fakeEngine)(nil)
	_ Maker      = (*fakeEngine)(nil)
)

func (f *fakeEngine) Run(_ context.Context, rec app.Record) (*engine.App, error) { return f.run(rec) }

func (f *fakeEngine) Hibernate(ctx context.Context, a *engine.App, how engine.Sleep, op *event.Operation) (*engine.Outcome, error) {
	return f.hibernate(ctx, a, how, op)
}

func (f *fakeEngine) Wake(_ context.Context, a *engine.App, how engine.Awakening, _ *event.Operation) (*engine.Outcome, error) {
	return f.wake(a, how)
}

func (f *fakeEngine) Stop(_ context.Context, a *engine.App, sig unix.Signal, grace time.Duration) error {
	return f.stop(a, sig, grace)
}

func (f *fakeEngine) Remove(_ context.Context, a *engine.App, force bool) error {
	return f.remove(a, force)
}

func (f *fakeEngine) TakeSnapshot(_ context.Context, a *engine.App, req engine.SnapshotRequest) (*snapshot.Manifest, *engine.Outcome, error) {
	return f.take(a, req)
}

func (f *fakeEngine) BeginSnapshot(ctx context.Context, name string, depth snapshot.Depth) (*source.Source, error) {
	return f.begin(ctx, name, depth)
}

func (f *fakeEngine) Restore(_ context.Context, req birth.RestoreRequest) (*engine.App, *engine.Outcome, error) {
	return f.restore(req)
}

// fakeObstacles knows the obstacles of apps and snapshots by their names, and how deep it was
// asked to look.
type fakeObstacles struct {
	of    map[string]error
	depth func(snapshot.Depth)
}

func (f *fakeObstacles) look(name string, depth snapshot.Depth) []restorable.Obstacle {
	if f.depth != nil {
		f.depth(depth)
	}
	return restorable.ObstaclesOf(f.of[name])
}

func (f *fakeObstacles) AppObstacles(_ context.Context, a restorable.App, depth snapshot.Depth) []restorable.Obstacle {
	rec, _ := a.Read()
	return f.look(rec.Name, depth)
}

func (f *fakeObstacles) SnapshotObstacles(_ context.Context, name string, depth snapshot.Depth) []restorable.Obstacle {
	return f.look(name, depth)
}

func (f *fakeObstacles) ManifestObstacles(_ context.Context, _ snapshot.Dir, m *snapshot.Manifest, depth snapshot.Depth) []restorable.Obstacle {
	return f.look(m.Name, depth)
}

// fakeNetwork knows who has which address, and what the holder keeps.
type fakeNetwork struct {
	owners map[netip.Addr]string
	kept   map[string]int
	err    error // of the holder
}

func (f *fakeNetwork) Owners(string) map[netip.Addr]string          { return f.owners }
func (f *fakeNetwork) Kept(context.Context) (map[string]int, error) { return f.kept, f.err }
func (f *fakeNetwork) HolderPID() int                               { return 4711 }
