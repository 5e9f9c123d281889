package clone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// fakeEngine is an engine, and a maker of apps, whose apps have a record and a turn, and nothing else.
type fakeEngine struct {
	t       *testing.T
	apps    app.Registry[*engine.App]
	write   func(name string) // writes a snapshot
	running atomic.Int32      // how many were let run

	mu     sync.Mutex // guards what follows
	addr   netip.Addr // of the app that was enrolled last
	calls  []string   // what was asked, with the name of the app
	errs   map[string]error
	births []birth.Birth     // of which apps were made
	during func(*engine.App) // is called while an app is made
}

var (
	_ Engine = (*fakeEngine)(nil)
	_ Maker  = (*fakeEngine)(nil)
)

// did notes a call, and returns the error that it is to have.
func (f *fakeEngine) did(what, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	call := what + " " + name
	f.calls = append(f.calls, call)
	if err := f.errs[call]; err != nil {
		return err
	}
	return f.errs[what]
}

// fail has a call fail, of one app or of all.
func (f *fakeEngine) fail(call string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[call] = err
}

// asked lists the calls of a kind since it was asked last, and forgets all.
func (f *fakeEngine) asked(kinds ...string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.DeleteFunc(f.calls, func(call string) bool {
		kind, _, _ := strings.Cut(call, " ")
		return !slices.Contains(kinds, kind)
	})
	f.calls = nil
	return list
}

func (f *fakeEngine) TakeSnapshot(ctx context.Context, a *engine.App, req engine.SnapshotRequest) (*snapshot.Manifest, *engine.Outcome, error) {
	if err := req.Reserved(ctx); err != nil {
		return nil, nil, err
	}
	if err := f.did("snapshot", a.Name()); err != nil {
		return nil, nil, err
	}
	f.write(req.Name)
	return &snapshot.Manifest{}, &engine.Outcome{Notes: []app.Note{{Text: "of the snapshot"}}}, nil
}

// kind is an operation that makes an app, or hands one out.
func (f *fakeEngine) kind(name string, ends app.Status, keep journal.Keep) *engine.Kind {
	return &engine.Kind{
		Table: journal.Table{Name: name, Doing: string(app.Restoring), Steps: []journal.Step{
			{Name: "begun"}, {Name: "recorded", Ends: string(ends), Keep: keep, Commits: true},
		}},
		Log:  slog.New(slog.DiscardHandler),
		Undo: func(ctx context.Context, r *engine.Run) error { return f.Expunge(ctx, r.Subject) },
	}
}

func (f *fakeEngine) Enroll(ctx context.Context, rec app.Record, b *birth.Birth, op *event.Operation) (*engine.Run, func(), error) {
	if err := f.did("enroll", rec.Name); err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	f.addr = f.addr.Next()
	if !rec.Addr4.IsValid() {
		rec.Addr4 = f.addr
	}
	f.births = append(f.births, *b)
	f.mu.Unlock()
	a := &engine.App{App: app.New(f.t.TempDir(), f.t.TempDir(), rec)}
	release, err := a.Take(ctx, "restoring")
	if err != nil {
		return nil, nil, err
	}
	ends := app.Running
	if rec.Pool != "" {
		ends = app.Pooled
	}
	r, err := f.kind("clone", ends, journal.Nothing).Begin(a, op)
	f.apps.Add(a)
	return r, release, err
}

// let lets an app run, or stand ready.
func (f *fakeEngine) let(ctx context.Context, what string, r *engine.Run) error {
	a := r.Subject
	if f.during != nil {
		f.during(a)
	}
	if err := f.did(what, a.Name()); err != nil {
		return err
	}
	f.running.Add(1)
	return r.At(ctx, "recorded")
}

func (f *fakeEngine) Instantiate(ctx context.Context, r *engine.Run, b birth.Birth) error {
	qt.Check(f.t, qt.IsNotNil(b.Plan))
	return f.let(ctx, "instantiate", r)
}

func (f *fakeEngine) MakeReady(ctx context.Context, r *engine.Run, b birth.Birth, rules *template.Rules) error {
	qt.Check(f.t, qt.IsTrue(b.Images != nil && rules != nil))
	return f.let(ctx, "ready", r)
}

func (f *fakeEngine) TakeReady(a *engine.App, name string, change func(*app.Record)) (*engine.Run, func(), error) {
	release, ok := a.TryTake("clone")
	if !ok {
		return nil, nil, nil
	}
	if err := f.did("take", name); err != nil || a.Status() != app.Pooled {
		release()
		return nil, nil, err
	}
	f.apps.Rename(a, name, func(r *app.Record) {
		r.Pool = ""
		change(r)
	})
	r, err := f.kind("hand-out", app.Running, journal.Aside).Begin(a, nil)
	return r, release, err
}

func (f *fakeEngine) HandOut(ctx context.Context, r *engine.Run, p *template.Plan) error {
	qt.Check(f.t, qt.IsNotNil(p))
	if err := f.did("hand-out", r.Subject.Name()); err != nil {
		return err
	}
	return r.At(ctx, "recorded")
}

func (f *fakeEngine) DropReady(ctx context.Context, a *engine.App) error {
	release, err := a.Take(ctx, "rm")
	if err != nil {
		return err
	}
	defer release()
	if err := f.did("drop", a.Name()); err != nil {
		return err
	}
	if rec, _ := a.Read(); rec.Pool == "" {
		return nil
	}
	return f.Expunge(ctx, a)
}

func (f *fakeEngine) Expunge(_ context.Context, a *engine.App) error {
	if a.Gone() {
		return nil
	}
	if err := f.did("expunge", a.Name()); err != nil {
		return err
	}
	f.apps.Remove(a)
	return a.Mark(journal.Mark{Entry: journal.Entry{Kind: "remove", Step: "begun", Doing: string(app.Removing)}})
}

// bench is clones of a fake engine, with all else as it is.
type bench struct {
	*Clones
	t     *testing.T
	fake  *fakeEngine
	state string
	freed atomic.Int32
	// outcomes are those of the last request, by the clones' names.
	outcomes map[string]Outcome
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, state: t.TempDir(), fake: &fakeEngine{t: t, errs: make(map[string]error), addr: netip.MustParseAddr("10.77.0.9")}}
	opt := store.Options{Dir: filepath.Join(b.state, "snapshots"), Freed: func() {}}
	var errs [6]error
	opt.Memory, errs[0] = memory.Open(filepath.Join(b.state, "memory"))
	opt.Layers, errs[1] = layer.Open(filepath.Join(b.state, "layers"))
	opt.HostFiles, errs[2] = hostfile.Open(filepath.Join(b.state, "files"))
	rooms := Rooms{Engine: b.fake, Maker: b.fake, Apps: &b.fake.apps, Events: event.NewBus(nil), Freed: func() { b.freed.Add(1) }}
	rooms.Store, errs[3] = store.Open(opt)
	log := slog.New(slog.DiscardHandler)
	rooms.Catalog, errs[4] = catalog.Open(t.Context(), catalog.Options{Dir: filepath.Join(b.state, "templates"), Store: rooms.Store, Log: log})
	rooms.Addresses = func(string) (int, netip.Prefix, error) { return 120, netip.MustParsePrefix("10.77.0.0/25"), nil }
	b.Clones, errs[5] = New(rooms, b.state, log)
	qt.Assert(t, qt.IsNil(errors.Join(errs[:]...)))
	b.fake.write = func(name string) { b.write(name, opt.Layers) }
	return b
}

// write writes a snapshot of an app without processes.
func (b *bench) write(name string, layers *layer.Store) {
	b.t.Helper()
	dir, free, err := b.Store.Reserve(name, "web")
	qt.Assert(b.t, qt.IsNil(err))
	defer free()
	_, err = snapshot.TakeFiles(b.t.Context(), snapshot.FilesOptions{
		Target: string(dir), Layers: layers,
		Manifest: snapshot.Manifest{
			Name: name, App: "web", Address: snapshot.Address{Network: "blue", Endpoint: "10.77.0.2"},
			Spec: &specs.Spec{Hostname: "web", Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
		},
		CopyFiles: func(_ context.Context, to snapshot.Dir) error {
			return errors.Join(os.Mkdir(to.Storage(), 0o700), os.WriteFile(filepath.Join(to.Storage(), "index.html"), []byte("<p>"), 0o600))
		},
	})
	qt.Assert(b.t, qt.IsNil(err))
}

// template makes a template with rules in YAML, of a snapshot that is written if it is not there.
func (b *bench) template(name, rules string) *catalog.Template {
	b.t.Helper()
	if _, _, err := b.Store.Find(name + "-saved"); err != nil {
		b.fake.write(name + "-saved")
	}
	op := b.Events.Begin(event.CreateTemplate, event.About{Template: name})
	t, _, err := b.CreateTemplate(b.t.Context(), TemplateRequest{Name: name, Snapshot: name + "-saved", Rules: rules, Op: op})
	qt.Assert(b.t, qt.IsNil(err))
	return t
}

// clones has clones made, as a request of the API does.
func (b *bench) clones(ctx context.Context, t *catalog.Template, r Request) error {
	b.t.Helper()
	free, err := b.ChooseNames(t, &r)
	if err != nil {
		return err
	}
	defer free()
	var mu sync.Mutex
	b.outcomes = make(map[string]Outcome)
	r.Done = func(out Outcome) {
		mu.Lock()
		defer mu.Unlock()
		b.outcomes[out.Name] = out
	}
	return b.Make(ctx, t, r)
}

// left lists the apps that there are, each with what it is doing.
func (b *bench) left() []string {
	all := []string{}
	for _, a := range b.Apps.List() {
		all = append(all, fmt.Sprint(a.Name(), " ", a.Status()))
	}
	return all
}

// unfinished lists the requests for several clones that are not over.
func (b *bench) unfinished() []string {
	b.t.Helper()
	entries, err := os.ReadDir(b.requestsDir)
	qt.Assert(b.t, qt.IsNil(err))
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
