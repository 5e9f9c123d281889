package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/template"
)

// A hand-out gives a ready clone to whoever asked for a clone. It is to take no longer than
// to start a program does. What is left to do is: a name, instance.json, what the rules
// say, the thaw, and a record in the app's run directory.
//
// All else is done before, see makePooled. The machine id is written. The network link is
// complete but for two routes and two entries of the fast path's table, without which its
// device drops everything.
//
// Or it is done afterwards, when nobody has asked for a clone for 100 ms (or for 1 s if
// somebody always has): the record is written to the disk, and the pool is filled. To fill it
// takes both processors and the kernel's lock on all networks, for which the next hand-out
// would wait. If the host goes down before that, it has never heard of the clone.

// handOut makes an app that was taken from the pool the clone that was asked for.
// If it fails nothing is left of the clone.
func (eng *Engine) handOut(ctx context.Context, c cloning, op *event.Operation) (err error) {
	a := c.app
	op.Step("take from pool")
	defer eng.Pools.Soon()
	defer func() {
		if err != nil {
			err = errors.Join(err, eng.expunge(context.WithoutCancel(ctx), a))
		}
	}()
	if err := fault.Point(ctx, fault.HandoutAfterRecord); err != nil {
		return err
	}
	b := birth{source: c.source} // makePooled has looked at what is open
	if b.plan, err = c.t.Rules.Plan(a.instance(len(c.req.Names), c.existing, c.req.Set)); err != nil {
		return fmt.Errorf("rules of template %s: %w: %w", c.t.Name, errdefs.ErrInvalidArgument, err)
	}
	b.plan.Done()
	a.heed(b.plan)
	if err := eng.addPublications(a, b.plan.Publish); err != nil {
		return err
	}
	if err := eng.apply(ctx, a, b); err != nil {
		return err
	}
	if b.plan.Hostname != "" {
		if err := sandbox.SetHostname(a.proc.PID, b.plan.Hostname); err != nil {
			return err
		}
	}
	if len(b.plan.Commands) == 0 {
		if err := a.Endpoint.Rejoin(ctx, a.Box.NetPath()); err != nil {
			return err
		}
	}
	op.Step("thaw")
	if err := a.Cgroup().Thaw(); err != nil {
		return err
	}
	if err := fault.Point(ctx, fault.HandoutAfterThaw); err != nil {
		return err
	}
	op.Step("settle in")
	if err := eng.settleIn(ctx, a, b.plan, a.proc); err != nil {
		return err
	}
	if err := a.RecordAside(a.Box.RunDir); err != nil {
		return err
	}
	eng.Pools.HandedOut(a.App)
	eng.watchIdle(a, a.ended)
	return fault.Point(ctx, fault.HandoutAfterCommit)
}

// takePooled takes the turn of a pooled app and gives it the clone's name; nil if
// there is none whose memory came back as is asked for. By app.json it stands ready until
// it runs, and a new daemon that finds it so ends it.
func (eng *Engine) takePooled(c *cloning) (_ *App, release func(), err error) {
	name := c.req.Names[c.index]
	for _, a := range eng.Pooled(c.t) {
		if pages := c.req.Policy.Pages; pages != nil && a.Pages() != *pages {
			continue
		}
		release, ok := a.TryTake("clone")
		if !ok {
			continue
		}
		if a.Status() != app.Pooled || a.hasEnded() {
			release()
			continue
		}
		err := eng.Apps.Rename(a, name, app.Restoring, func(r *app.Record) {
			r.Pool, r.Template, r.Number = "", c.t.Name, c.req.numbers[c.index]
			r.Batch, r.LastError = c.req.batch, ""
			c.req.Policy.Change(r)
			r.Generation, r.CreatedAt = template.NewGeneration(), time.Now()
		})
		if err != nil {
			release()
			return nil, nil, err
		}
		a.Endpoint.Use(name)
		return a, release, nil
	}
	return nil, nil, nil
}
