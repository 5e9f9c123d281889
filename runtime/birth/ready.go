package birth

import (
	"context"
	"errors"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem/netns"
)

// An app that stands ready is made before somebody asks for it. It is restored, has an
// endpoint at which nobody reaches it, and is frozen between CRIU's pre-resume notification and
// its first instruction. Its record names the pool that it belongs to. It is not listed, and has
// the status Pooled. Its directories and its cgroup have a name that nobody could choose, and
// keep it when the app gets a name, and is handed out:
//
//	Enroll -> MakeReady -> TakeReady -> HandOut -> running
//	                |
//	                +----> engine.DropReady
//
// To the app it is as if it had been stopped: its clocks went on meanwhile. A new daemon ends
// what stands ready.

var fillTable = journal.Table{
	Name: "fill-pool", Doing: string(app.Restoring), From: []string{""},
	Steps: []journal.Step{
		{Name: "begun", Means: "a clone for the pool is recorded, nothing is made", Keep: journal.UntilReboot},
		{Name: "starting", Means: "the view of the images is made, CRIU is not started"},
		{Name: "restored", Means: "its processes are there, frozen"},
		{Name: "recorded", Means: "it is recorded as ready, and ends with its daemon", Keep: journal.UntilReboot, Ends: string(app.Pooled)},
	},
}

var handOutTable = journal.Table{
	Name: "hand-out", Doing: string(app.Restoring), From: []string{string(app.Pooled)},
	Steps: []journal.Step{
		{Name: "begun", Means: "a ready clone has got its name", Then: "take from pool"},
		{Name: "thawed", Means: "its processes run", Then: "settle in"},
		{Name: "recorded", Means: "it is recorded as running", Keep: journal.Aside, Ends: string(app.Running), Commits: true},
	},
}

// MakeReady makes an enrolled app's files and processes, and has them stand ready. It does the
// part of the rules that does not depend on the app's name. It is the body of r.
func (m *Maker) MakeReady(ctx context.Context, r *engine.Run, b Birth, rules *template.Rules) error {
	a := r.Subject
	remarkNote(a, source.Repeats(b.Images.Repeats, source.Cloned))
	if err := layer.Flatten(ctx, b.copied, a.Box.Spec.Root.Path, a.Box.Upper()); err != nil {
		return err
	}
	ns, err := m.engine.Prepare(ctx, a)
	if err != nil {
		return err
	}
	if err := ns.Close(); err != nil {
		return err
	}
	if err := m.engine.Relink(ctx, a); err != nil {
		return err
	}
	// Its listeners would take connections, and its sockets datagrams.
	if err := a.Endpoint.Isolate(ctx); err != nil {
		return err
	}
	if err := a.Subject().LoadDev(ctx, b.Source.Dir); err != nil {
		return err
	}
	if err := rules.Ahead(a.Root(), b.Images.Open); err != nil {
		return err
	}
	connections, err := b.Source.Connections(rules.Connections.Internal)
	if err != nil {
		return err
	}
	proc, err := m.engine.Tools.Revive(ctx, a.Subject(), checkpoint.Revival{
		From: b.Source.Dir, Manifest: b.Source.Manifest, Pages: b.Pages, Frozen: true, Step: r.Step, At: r.At,
		Connections: connections, Options: b.Source.SocketOptions, SetNetwork: true,
		Enclose: func(ctx context.Context) (*netns.NS, error) { return m.engine.Prepared(ctx, a) },
	})
	if err != nil {
		return err
	}
	if err := r.At(ctx, "restored"); err != nil {
		return errors.Join(err, proc.Close())
	}
	if err := m.engine.Adopt(ctx, r, proc); err != nil {
		return err
	}
	a.Endpoint.Ready()
	app.KeepSpare(a.Dir())
	return nil
}

// TakeReady takes the turn of an app that stands ready, gives the app a name, which the caller
// has reserved, and what change does to its record, and begins the operation that hands it out.
// It returns no operation if somebody else has the turn, or the app does not stand ready any
// more. By its record on the disk it stands ready until HandOut is over: a new daemon that finds
// it so ends it.
func (m *Maker) TakeReady(a *engine.App, name string, change func(*app.Record)) (_ *engine.Run, release func(), err error) {
	release, ok := a.TryTake("clone")
	if !ok {
		return nil, nil, nil
	}
	if a.Status() != app.Pooled || a.HasEnded() {
		release()
		return nil, nil, nil
	}
	m.engine.Apps.Rename(a, name, func(r *app.Record) {
		r.Pool, r.LastError, r.CreatedAt = "", "", time.Now()
		change(r)
	})
	r, err := m.handOut.Begin(a, nil)
	if err != nil {
		release()
		return nil, nil, err
	}
	a.Endpoint.Use(name)
	return r, release, nil
}

// HandOut does to an app that was taken by TakeReady what the plan says, and lets it run. The
// app's record is in the run directory then, see [app.New]. It is the body of r.
func (m *Maker) HandOut(ctx context.Context, r *engine.Run, p *template.Plan) error {
	a := r.Subject
	proc := a.Process()
	p.Done()
	heed(a, p)
	if err := m.engine.AddPublications(a, p.Publish); err != nil {
		return err
	}
	if err := apply(ctx, a, p); err != nil {
		return err
	}
	if p.Hostname != "" {
		if err := sandbox.SetHostname(proc.PID, p.Hostname); err != nil {
			return err
		}
	}
	if len(p.Commands) == 0 {
		if err := a.Endpoint.Rejoin(ctx, a.Box.NetPath()); err != nil {
			return err
		}
	}
	r.Step("thaw")
	if err := a.Cgroup().Thaw(); err != nil {
		return err
	}
	if err := r.At(ctx, "thawed"); err != nil {
		return err
	}
	if err := runCommands(ctx, a, p, proc.PID); err != nil {
		return err
	}
	if len(p.Commands) > 0 { // else the first write was enough: the processes were there, frozen
		if err := p.Instance.Write(a.Root()); err != nil {
			return err
		}
	}
	if err := m.letIn(ctx, a, p, proc); err != nil {
		return err
	}
	if err := r.At(ctx, "recorded"); err != nil {
		return err
	}
	m.engine.HandedOut(a)
	return nil
}
