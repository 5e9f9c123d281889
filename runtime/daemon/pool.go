package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/netns"
)

// A template's pool is ready clones, which were made before somebody asked for them. They are
// restored, have an endpoint at which nobody reaches them, and are frozen between CRIU's
// pre-resume notification and their first instruction. A request for a clone gets one of
// them, see handout.go.
//
// Ready clones are apps that are not listed, with the status Pooled. They have directories and
// a cgroup of their own name (_pool-...), and get an app's name when they are handed out. To
// the clone it is as if it had been stopped: its clocks went on meanwhile. A new daemon ends
// the ready clones of an earlier one, and makes others.

// poolKeeper makes and removes ready clones for clone.Pools.
type poolKeeper struct{ d *Daemon }

var _ clone.Keeper = poolKeeper{}

// keepPools fills and empties the pools whenever it is asked to, but not while
// somebody asks for clones.
func (d *Daemon) keepPools(ctx context.Context) { d.pools.Run(ctx, d.catalog.List, poolKeeper{d}) }

// DropStrays implements clone.Keeper.
func (k poolKeeper) DropStrays(ctx context.Context) error {
	var errs []error
	for _, a := range k.d.apps.List() {
		rec, _ := a.Read()
		if rec.Pool == "" {
			continue
		}
		// One of an earlier daemon is of no template.
		if a.pool == nil || !k.d.catalog.Has(a.pool) {
			errs = append(errs, k.d.dropPooled(ctx, a))
		}
	}
	return errors.Join(errs...)
}

// KeepPool implements clone.Keeper.
func (k poolKeeper) KeepPool(ctx context.Context, t *catalog.Template) error {
	var errs []error
	ready := 0
	for _, a := range k.d.pooled(t) {
		if a.Status() == app.Pooled {
			if ready++; ready <= k.d.catalog.Ready(t) {
				continue
			}
			ready--
		}
		errs = append(errs, k.d.dropPooled(ctx, a))
	}
	for ; ready < k.d.catalog.Ready(t) && k.d.pools.Calm(ctx); ready++ {
		k.d.pools.Record() // Pools does it again
		if err := k.d.makePooled(ctx, t); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(errs...)
}

// pooled lists the ready clones of a template, also those that have ended meanwhile.
func (d *Daemon) pooled(t *catalog.Template) []*App {
	var some []*App
	for _, a := range d.apps.List() {
		if a.pool != t {
			continue
		}
		if rec, _ := a.Read(); rec.Pool != "" && (rec.Status == app.Pooled || rec.Status == app.Stopped || rec.Status == app.Removing) {
			some = append(some, a)
		}
	}
	return some
}

// dropPooled removes an app of a pool, unless it was handed out meanwhile.
func (d *Daemon) dropPooled(ctx context.Context, a *App) error {
	release, err := a.Take(ctx, "rm")
	if err != nil {
		return err
	}
	defer release()
	if rec, _ := a.Read(); rec.Pool == "" {
		return nil
	}
	return d.expunge(context.WithoutCancel(ctx), a)
}

// spare is how another app gets the endpoint of a ready clone that is being enrolled; nil
// if pool is. enrolled is told the clone, or nil if it could not be enrolled: until then
// whoever wants the endpoint waits.
func (d *Daemon) spare(pool *catalog.Template) (_ *vem.Spare, enrolled func(*App)) {
	if pool == nil {
		return nil, func(*App) {}
	}
	var clone *App
	done := make(chan struct{})
	giveUp := func(ctx context.Context) error {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if clone == nil {
			return nil
		}
		return d.dropPooled(ctx, clone)
	}
	return &vem.Spare{GiveUp: giveUp}, func(a *App) {
		clone = a
		close(done)
	}
}

// makePooled makes one clone for the pool.
func (d *Daemon) makePooled(ctx context.Context, t *catalog.Template) (err error) {
	op := d.events.Begin(event.FillPool, event.About{Template: t.Name})
	defer func() { op.End(err) }()
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	s, err := d.openSnapshot(ctx, t.Snapshot, snapshot.ByStamp)
	if err != nil {
		return err
	}
	defer s.Close()
	images, err := t.Inspect(ctx, s.inspect)
	if err != nil {
		return err
	}
	rec, err := recordOf(s.Manifest)
	if err != nil {
		return err
	}
	if err := rec.HeedRules(t.Rules); err != nil {
		return err
	}
	rec.ForgetMemory(rec.RestoreMemory)
	// No name that somebody could choose, see snapshot.ValidateName.
	rec.ID = "_pool-" + rand.Text()[:10]
	rec.Name, rec.Pool, rec.RestoredFrom = rec.ID, t.Name, t.Snapshot
	copied, err := d.unstackable(ctx, rec)
	if err != nil {
		return err
	}
	a, release, err := d.enrollAs(ctx, rec, app.Restoring, t)
	if err != nil {
		return err
	}
	defer release()
	defer func() {
		if err != nil {
			err = errors.Join(err, d.expunge(context.WithoutCancel(ctx), a))
		}
	}()
	if !d.catalog.Has(t) { // removed before it could be seen that it has a ready clone
		return fmt.Errorf("template %s: %w", t.Name, errdefs.ErrNotFound)
	}
	a.remarkNote(repeats(images.Repeats, cloned))
	if err := fault.Point(ctx, fault.PoolAfterRecord); err != nil {
		return err
	}
	if err := snapshot.CopyLayers(ctx, copied, rec.Spec.Root.Path, a.box.Upper()); err != nil {
		return err
	}
	ns, err := d.prepare(ctx, a)
	if err != nil {
		return err
	}
	if err := ns.Close(); err != nil {
		return err
	}
	if err := d.relink(ctx, a); err != nil {
		return err
	}
	// Its listeners would take connections, and its sockets datagrams.
	if err := a.end.Isolate(ctx); err != nil {
		return err
	}
	if err := a.subject().LoadDev(ctx, s.Dir); err != nil {
		return err
	}
	if err := t.Rules.Ahead(a.box.Root(), images.Open); err != nil {
		return err
	}
	connections, err := s.connections(t.Rules.Connections.Internal)
	if err != nil {
		return err
	}
	proc, err := d.tools().Revive(ctx, a.subject(), checkpoint.Revival{
		From: s.Dir, Manifest: s.Manifest, Pages: rec.RestoreMemory, Frozen: true, Step: op.Step,
		Connections: connections, Options: s.socketOptions, SetNetwork: true,
		Enclose: func(ctx context.Context) (*netns.NS, error) { return d.prepared(ctx, a) },
	})
	if err != nil {
		return err
	}
	if err := fault.Point(ctx, fault.PoolAfterRestore); err != nil {
		return errors.Join(err, proc.Close())
	}
	if err := d.adoptAs(a, proc, app.Pooled, journal.UntilReboot); err != nil {
		return err
	}
	a.end.Ready()
	app.KeepSpare(a.Dir())
	return fault.Point(ctx, fault.PoolAfterCommit)
}
