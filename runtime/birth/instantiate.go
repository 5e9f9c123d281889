package birth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/netns"
)

// Instantiate makes an enrolled app's files and processes, and lets them run. It is the body of
// r.
//
//	cgroup, namespace -> CRIU's start   -> CRIU's namespaces -> its processes -> commands, signal -> network
//	                     files, images     link, cut off if there are commands
func (m *Maker) Instantiate(ctx context.Context, r *engine.Run, b Birth) error {
	a := r.Subject
	heed(a, b.Plan)
	if err := m.engine.AddPublications(a, b.Plan.Publish); err != nil {
		return err
	}
	proc, err := m.revive(ctx, r, b)
	if err != nil {
		return err
	}
	err = r.At(ctx, "restored")
	if err == nil {
		plan := *b.Plan
		if b.Source.Manifest.Processes == 0 {
			plan.Signal = 0 // the program is new, and has read its files
		}
		err = m.settleIn(ctx, a, &plan, b.Images, proc)
	}
	if err != nil {
		return errors.Join(err, proc.Close())
	}
	return m.engine.Adopt(ctx, r, proc)
}

// furnish makes the files of an app that is made of a snapshot, while the snapshot is
// checked. If the snapshot turns out to be damaged, what furnish has made is removed together
// with the app.
func (m *Maker) furnish(ctx context.Context, r *engine.Run, b Birth) error {
	a := r.Subject
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.makeFiles(gctx, r, b) })
	g.Go(b.Source.Checked)
	g.Go(func() error { return b.remarkRepeats(gctx, a) })
	if err := g.Wait(); err != nil {
		return err
	}
	return r.At(ctx, "furnished")
}

// connect attaches the app to its network, and cuts it off if commands are to be run
// first.
func connect(ctx context.Context, a *engine.App, p *template.Plan, ns *netns.NS) error {
	if err := a.Endpoint.Attach(ctx, ns); err != nil || len(p.Commands) == 0 {
		return err
	}
	return a.Endpoint.Isolate(ctx)
}

// makeFiles makes the app's files.
func (m *Maker) makeFiles(ctx context.Context, r *engine.Run, b Birth) error {
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
	if err := m.engine.Relink(ctx, a); err != nil {
		return err
	}
	if err := a.Subject().LoadDev(ctx, b.Source.Dir); err != nil {
		return err
	}
	if err := b.checkOpen(ctx, a); err != nil {
		return err
	}
	return apply(ctx, a, b.Plan)
}

// heed writes into the app's record what a plan says of it.
func heed(a *engine.App, p *template.Plan) {
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
func (b *Birth) checkOpen(ctx context.Context, a *engine.App) error {
	switch {
	case b.Images != nil:
		return b.Plan.CheckOpen(a.Root(), b.Images.Open)
	case b.Source.Manifest.Processes == 0:
		return nil
	}
	files, err := openfile.ReadSaved(ctx, b.Source.Dir.Images())
	if err != nil {
		return err
	}
	return b.Plan.CheckOpen(a.Root(), openfile.Names(files))
}

// apply writes the app's own files.
func apply(ctx context.Context, a *engine.App, p *template.Plan) error {
	rec, _ := a.Read()
	binds := make(map[string]string, len(rec.Spec.Mounts))
	for _, m := range rec.Spec.Mounts {
		binds[m.Destination] = m.Source
	}
	return p.Apply(ctx, a.Root(), binds)
}

// settleIn does what is to be done when the processes of a new app run, and lets traffic in. images may
// be nil.
func (m *Maker) settleIn(ctx context.Context, a *engine.App, p *template.Plan, images *template.Images, proc *process.Process) error {
	if err := runCommands(ctx, a, p, proc.PID); err != nil {
		return err
	}
	// Write instance.json again, now that the processes run: a program that watches it
	// with inotify did not see the first write, which was before the restore, and one that was
	// started by a command may wait for the end of all of them.
	if images == nil || images.Watches || len(p.Commands) > 0 {
		if err := p.Instance.Write(a.Root()); err != nil {
			return err
		}
	}
	return m.letIn(ctx, a, p, proc)
}

// letIn tells a program that has its files and whose commands have run that it may go on, and
// attaches an app to its network again that was cut off for the commands.
func (m *Maker) letIn(ctx context.Context, a *engine.App, p *template.Plan, proc *process.Process) error {
	if p.Signal != 0 {
		if err := proc.Signal(p.Signal); err != nil {
			return err
		}
	}
	if len(p.Commands) == 0 {
		return nil
	}
	ns, err := m.engine.Prepare(ctx, a)
	if err != nil {
		return err
	}
	return ns.Close()
}

// runCommands runs the commands of a plan, one after the other. pid is the app's root process.
func runCommands(ctx context.Context, a *engine.App, p *template.Plan, pid int) error {
	for _, c := range p.Commands {
		if err := command(ctx, a, c, pid); err != nil {
			return err
		}
	}
	return nil
}

// command runs a command of the rules inside a restored app.
func command(ctx context.Context, a *engine.App, c template.PlannedCommand, pid int) error {
	rec, _ := a.Read()
	fail := func(err error) error { return fmt.Errorf("run %s: %w", strings.Join(c.Args, " "), err) }
	p := &specs.Process{Args: c.Args, Cwd: "/", Env: rec.Spec.Process.Env}
	if c.User != "" {
		var err error
		if p.User.UID, p.User.GID, err = template.LookupUser(a.Root(), c.User); err != nil {
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
