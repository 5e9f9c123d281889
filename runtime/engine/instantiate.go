package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/netns"
)

// Restoring is why a snapshot stays while an app is made of it: CRIU opens its images one after
// the other.
var Restoring = store.Reason{Why: "an app is being restored from it", Remedy: "try again when that is done"}

// BeginSnapshot opens a snapshot while it is still being checked: see [store.Store.Begin]. The
// caller closes it.
func (eng *Engine) BeginSnapshot(ctx context.Context, name string, depth snapshot.Depth) (*source.Source, error) {
	s, err := eng.Store.Begin(ctx, name, depth)
	if err != nil {
		return nil, err
	}
	return &source.Source{Snapshot: s}, nil
}

// Birth is how an app is made of a snapshot: by Enroll, and then Instantiate or MakeReady.
type Birth struct {
	Source *source.Source
	Files  Files
	Pages  restore.Pages
	// Plan is what differs from the app that was saved. It is made of the enrolled app, see
	// [App.Instance].
	Plan *template.Plan
	// Images is what the images of a template's snapshot say; nil of another snapshot.
	Images *template.Images

	copied []string // storage layers that can't be shared, see Enroll
}

// Files says whose files an app has that is made of a snapshot.
type Files int

// Whose files the app has.
const (
	SharedFiles  Files = iota // the snapshot's, below its own
	PrivateFiles              // a copy
)

// Instance is what is known of an app that is made of a snapshot, one of count.
func (a *App) Instance(count, existing int, set map[string]string) template.Instance {
	rec, _ := a.Read()
	return template.Instance{
		Name: rec.Name, Template: rec.Template, Number: rec.Number, Count: count, Existing: existing,
		Endpoint: rec.Addr4, Endpoint6: rec.Addr6, Network: rec.Network, Hostname: rec.Spec.Hostname,
		Generation: rec.Generation, CreatedAt: rec.CreatedAt, Set: set,
	}
}

// Instantiate makes an enrolled app's files and processes, and lets them run. It is the body of
// r.
//
//	cgroup, namespace -> CRIU's start   -> CRIU's namespaces -> its processes -> commands, signal -> network
//	                     files, images     link, cut off if there are commands
func (eng *Engine) Instantiate(ctx context.Context, r *Run, b Birth) error {
	a := r.Subject
	a.heed(b.Plan)
	if err := eng.addPublications(a, b.Plan.Publish); err != nil {
		return err
	}
	proc, err := eng.revive(ctx, r, b)
	if err != nil {
		return err
	}
	a.ready = true
	err = r.At(ctx, "restored")
	if err == nil {
		plan := *b.Plan
		if b.Source.Manifest.Processes == 0 {
			plan.Signal = 0 // the program is new, and has read its files
		}
		err = eng.settleIn(ctx, a, &plan, proc)
	}
	if err != nil {
		return errors.Join(err, proc.Close())
	}
	return eng.adopt(ctx, r, proc)
}

// furnish makes the files of an app that is made of a snapshot, while the snapshot is
// checked. If the snapshot turns out to be damaged, what furnish has made is removed together
// with the app.
func (eng *Engine) furnish(ctx context.Context, r *Run, b Birth) error {
	a := r.Subject
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return eng.fill(gctx, r, b) })
	g.Go(b.Source.Checked)
	g.Go(func() error { return b.remarkRepeats(gctx, a) })
	if err := g.Wait(); err != nil {
		return err
	}
	return r.At(ctx, "furnished")
}

// connect attaches the app to its network, and cuts it off if commands are to be run
// first.
func (eng *Engine) connect(ctx context.Context, a *App, p *template.Plan, ns *netns.NS) error {
	if err := a.Endpoint.Attach(ctx, ns); err != nil || len(p.Commands) == 0 {
		return err
	}
	return a.Endpoint.Isolate(ctx)
}

// fill makes the app's files.
func (eng *Engine) fill(ctx context.Context, r *Run, b Birth) error {
	a := r.Subject
	if len(b.copied) > 0 {
		r.Step("copy files")
		if err := layer.Flatten(ctx, b.copied, a.Box.Spec.Root.Path, a.Box.Upper()); err != nil {
			return err
		}
		r.Step("start criu") // it goes on
	}
	if err := a.Box.Furnish(ctx); err != nil {
		return err
	}
	if err := eng.relink(ctx, a); err != nil {
		return err
	}
	if err := a.Subject().LoadDev(ctx, b.Source.Dir); err != nil {
		return err
	}
	if err := b.checkOpen(ctx, a); err != nil {
		return err
	}
	return a.apply(ctx, b.Plan)
}

// heed writes into the app's record what a plan says of it.
func (a *App) heed(p *template.Plan) {
	a.Amend(func(r *app.Record) {
		spec, process := *r.Spec, *r.Spec.Process
		if p.Hostname != "" {
			spec.Hostname = p.Hostname
		}
		process.Env = append(append([]string{}, process.Env...), p.Env...)
		spec.Process = &process
		r.Spec, a.Box.Spec = &spec, &spec
	})
}

// checkOpen refuses to write to files that the processes have open.
func (b *Birth) checkOpen(ctx context.Context, a *App) error {
	switch {
	case b.Images != nil:
		return b.Plan.CheckOpen(a.Box.Root(), b.Images.Open)
	case b.Source.Manifest.Processes == 0:
		return nil
	}
	files, err := openfile.ReadSaved(ctx, b.Source.Dir.Images())
	if err != nil {
		return err
	}
	return b.Plan.CheckOpen(a.Box.Root(), openfile.Names(files))
}

// apply writes the app's own files.
func (a *App) apply(ctx context.Context, p *template.Plan) error {
	rec, _ := a.Read()
	binds := make(map[string]string, len(rec.Spec.Mounts))
	for _, m := range rec.Spec.Mounts {
		binds[m.Destination] = m.Source
	}
	return p.Apply(ctx, a.Box.Root(), binds)
}

// settleIn does what is to be done when the processes run, and lets traffic in.
func (eng *Engine) settleIn(ctx context.Context, a *App, p *template.Plan, proc *process.Process) error {
	for _, c := range p.Commands {
		if err := a.command(ctx, c, proc.PID); err != nil {
			return err
		}
	}
	// Write instance.json again, now that the processes run: a program that watches it
	// with inotify did not see the first write, which was before the restore. An app
	// that stood ready needs no second write: its processes existed, frozen, during the first.
	if !a.wasReady || len(p.Commands) > 0 {
		if err := p.Instance.Write(a.Box.Root()); err != nil {
			return err
		}
	}
	if p.Signal != 0 {
		if err := proc.Signal(p.Signal); err != nil {
			return err
		}
	}
	if len(p.Commands) == 0 {
		return nil
	}
	ns, err := eng.prepare(ctx, a) // attaches it again
	if err != nil {
		return err
	}
	return ns.Close()
}

// command runs a command of the rules inside a restored app.
func (a *App) command(ctx context.Context, c template.PlannedCommand, pid int) error {
	rec, _ := a.Read()
	fail := func(err error) error { return fmt.Errorf("run %s: %w", strings.Join(c.Args, " "), err) }
	p := &specs.Process{Args: c.Args, Cwd: "/", Env: rec.Spec.Process.Env}
	if c.User != "" {
		var err error
		if p.User.UID, p.User.GID, err = template.LookupUser(a.Box.Root(), c.User); err != nil {
			return fail(err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("it took longer than its timeout in the rules, %s", c.Timeout))
	defer cancel()
	if err := a.Box.RunCommand(ctx, pid, p); err != nil {
		return fail(err)
	}
	return nil
}
