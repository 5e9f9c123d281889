package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// source is a checked snapshot whose memory and layers nobody removes meanwhile.
type source struct {
	d        *Daemon
	dir      snapshot.Dir
	manifest *snapshot.Manifest

	once     sync.Once // see connections
	saved    *tcprepair.Saved
	savedErr error
}

// openSnapshot finds and checks a snapshot. The caller closes it.
func (d *Daemon) openSnapshot(ctx context.Context, name string, depth snapshot.Depth) (_ *source, err error) {
	dir, m, err := d.findSnapshot(name)
	if err != nil {
		return nil, err
	}
	s := &source{d: d, dir: dir, manifest: m}
	d.memory.Pin(m.MemoryFiles())
	d.layers.Pin(m.Layers)
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("snapshot %s: %w", name, err)
		}
	}()
	if _, err := dir.Open(ctx, depth, d.memory); err != nil {
		return nil, err
	}
	return s, d.checkLayers(ctx, m, depth)
}

// Close lets go of what the snapshot needs.
func (s *source) Close() {
	s.d.memory.Unpin(s.manifest.MemoryFiles())
	s.d.layers.Unpin(s.manifest.Layers)
	s.d.sweepSoon() // the snapshot may have been removed meanwhile
}

// birth is how an enrolled app is made of a snapshot.
type birth struct {
	source *source
	copied []string // storage layers that can't be shared, see unstackable
	pages  restore.Pages
	plan   *template.Plan
	// open are the files that the processes have open; nil if nobody looked.
	open []string
}

// instance is what is known of an app that is made of a snapshot, one of count.
func (a *app) instance(count, existing int, set map[string]string) template.Instance {
	rec, _ := a.read()
	return template.Instance{
		Name: rec.Name, Template: rec.Template, Number: rec.Number, Count: count, Existing: existing,
		Endpoint: rec.Addr4, Endpoint6: rec.Addr6, Network: rec.Network, Hostname: rec.Spec.Hostname,
		Generation: rec.Generation, CreatedAt: rec.CreatedAt, Set: set,
	}
}

// instantiate makes an enrolled app's files and processes, and lets them run. If
// it fails the caller expunges the app.
//
//	files, links -> restore, cut off from the network -> commands, signal -> network
func (d *Daemon) instantiate(ctx context.Context, a *app, b birth, clock *steps) error {
	if err := fault.Point(ctx, fault.RestoreAfterRecord); err != nil {
		return err
	}
	if len(b.copied) > 0 {
		clock.begin("copy files")
		if err := snapshot.CopyLayers(ctx, b.copied, a.box.Upper()); err != nil {
			return err
		}
	}
	clock.begin("prepare sandbox")
	a.heed(b.plan)
	if err := d.addPublications(a, b.plan.Publish); err != nil {
		return err
	}
	ns, err := d.prepare(ctx, a)
	if err != nil {
		return err
	}
	if err := ns.Close(); err != nil {
		return err
	}
	if err := snapshot.CopyTree(ctx, b.source.dir.Shm(), a.box.Shm()); err != nil {
		return err
	}
	if err := d.apply(ctx, a, b); err != nil {
		return err
	}
	if err := fault.Point(ctx, fault.RestoreAfterSandbox); err != nil {
		return err
	}
	if len(b.plan.Commands) > 0 {
		if err := d.isolate(ctx, a); err != nil {
			return err
		}
	}
	connections, err := b.source.connections(b.plan.Connections.Internal)
	if err != nil {
		return err
	}
	proc, err := d.restore(ctx, a, revival{
		from: b.source.dir, manifest: b.source.manifest, pages: b.pages, hostname: b.plan.Hostname, tell: clock.begin, connections: connections,
	})
	if err != nil {
		return err
	}
	clock.begin("settle in")
	err = fault.Point(ctx, fault.RestoreAfterRestore)
	if err == nil {
		err = d.settleIn(ctx, a, b.plan, proc)
	}
	if err != nil {
		return errors.Join(err, proc.Close())
	}
	return d.adopt(a, proc, forever)
}

// heed takes what a plan says of the app's record.
func (a *app) heed(p *template.Plan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	spec, process := *a.rec.Spec, *a.rec.Spec.Process
	if p.Hostname != "" {
		spec.Hostname = p.Hostname
	}
	process.Env = append(append([]string{}, process.Env...), p.Env...)
	spec.Process = &process
	a.rec.Spec, a.box.Spec = &spec, &spec
}

// apply writes the app's own files.
func (d *Daemon) apply(ctx context.Context, a *app, b birth) error {
	if b.open != nil {
		if err := b.plan.CheckOpen(a.box.Root(), b.open); err != nil {
			return err
		}
	}
	rec, _ := a.read()
	binds := make(map[string]string, len(rec.Spec.Mounts))
	for _, m := range rec.Spec.Mounts {
		binds[m.Destination] = m.Source
	}
	return b.plan.Apply(ctx, a.box.Root(), binds)
}

// settleIn does what is to be done when the processes run, and lets traffic in.
func (d *Daemon) settleIn(ctx context.Context, a *app, p *template.Plan, proc *sandbox.Process) error {
	if rec, _ := a.read(); rec.Template != "" {
		if err := fault.Point(ctx, fault.CloneAfterRun); err != nil {
			return err
		}
	}
	for _, c := range p.Commands {
		if err := a.command(ctx, c, proc.PID); err != nil {
			return err
		}
	}
	// Once more: who watches the file sees only what happens now.
	if err := p.Instance.Write(a.box.Root()); err != nil {
		return err
	}
	if p.Signal != 0 {
		if err := proc.Signal(p.Signal); err != nil {
			return err
		}
	}
	if len(p.Commands) == 0 {
		return nil
	}
	ns, err := d.prepare(ctx, a) // attaches it again
	if err != nil {
		return err
	}
	return ns.Close()
}

// command runs a command of the rules inside a restored app.
func (a *app) command(ctx context.Context, c template.PlannedCommand, pid int) error {
	rec, _ := a.read()
	fail := func(err error) error { return fmt.Errorf("run %s: %w", strings.Join(c.Args, " "), err) }
	p := &specs.Process{Args: c.Args, Cwd: "/", Env: rec.Spec.Process.Env}
	if c.User != "" {
		usr, err := parseUser(c.User)
		if err != nil {
			return fail(err)
		}
		p.User = *usr
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd, err := a.box.Command(ctx, pid, p)
	if err != nil {
		return fail(err)
	}
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := a.box.StartCommand(cmd, pid); err != nil {
		return fail(err)
	}
	if err := cmd.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return fail(fmt.Errorf("%w: %s", err, bytes.TrimSpace(out)))
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail []byte

var _ io.Writer = (*tail)(nil)

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	const most = 1 << 10
	*t = append(*t, p...)
	if n := len(*t); n > most {
		*t = append((*t)[:0], (*t)[n-most:]...)
	}
	return len(p), nil
}
