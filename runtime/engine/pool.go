package engine

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
	"github.com/snapctl/snapctl/snapshot/layer"
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
type poolKeeper struct{ eng *Engine }

var _ clone.Keeper = poolKeeper{}

// keepPools fills and empties the pools whenever it is asked to, but not while
// somebody asks for clones.
func (eng *Engine) keepPools(ctx context.Context) {
	eng.Pools.Run(ctx, eng.Catalog.List, poolKeeper{eng})
}

// DropStrays implements clone.Keeper.
func (k poolKeeper) DropStrays(ctx context.Context) error {
	var errs []error
	for _, a := range k.eng.Apps.List() {
		rec, _ := a.Read()
		if rec.Pool == "" {
			continue
		}
		// One of an earlier daemon is of no template.
		if a.pool == nil || !k.eng.Catalog.Has(a.pool) {
			errs = append(errs, k.eng.dropPooled(ctx, a))
		}
	}
	return errors.Join(errs...)
}

// KeepPool implements clone.Keeper.
func (k poolKeeper) KeepPool(ctx context.Context, t *catalog.Template) error {
	var errs []error
	ready := 0
	for _, a := range k.eng.Pooled(t) {
		if a.Status() == app.Pooled {
			if ready++; ready <= k.eng.Catalog.Ready(t) {
				continue
			}
			ready--
		}
		errs = append(errs, k.eng.dropPooled(ctx, a))
	}
	for ; ready < k.eng.Catalog.Ready(t) && k.eng.Pools.Calm(ctx); ready++ {
		k.eng.Pools.Record() // Pools does it again
		if err := k.eng.makePooled(ctx, t); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(errs...)
}

// Pooled lists the ready clones of a template, also those that have ended meanwhile.
func (eng *Engine) Pooled(t *catalog.Template) []*App {
	var some []*App
	for _, a := range eng.Apps.List() {
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
func (eng *Engine) dropPooled(ctx context.Context, a *App) error {
	release, err := a.Take(ctx, "rm")
	if err != nil {
		return err
	}
	defer release()
	if rec, _ := a.Read(); rec.Pool == "" {
		return nil
	}
	return eng.expunge(context.WithoutCancel(ctx), a)
}

// spare is how another app gets the endpoint of a ready clone that is being enrolled; nil
// if pool is. enrolled is told the clone, or nil if it could not be enrolled: until then
// whoever wants the endpoint waits.
func (eng *Engine) spare(pool *catalog.Template) (_ *vem.Spare, enrolled func(*App)) {
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
		return eng.dropPooled(ctx, clone)
	}
	return &vem.Spare{GiveUp: giveUp}, func(a *App) {
		clone = a
		close(done)
	}
}

// makePooled makes one clone for the pool.
func (eng *Engine) makePooled(ctx context.Context, t *catalog.Template) (err error) {
	op := eng.Events.Begin(event.FillPool, event.About{Template: t.Name})
	defer func() { op.End(err) }()
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	s, err := eng.openSnapshot(ctx, t.Snapshot, snapshot.ByStamp)
	if err != nil {
		return err
	}
	defer s.Close()
	images, err := t.Inspect(ctx, s.inspect)
	if err != nil {
		return err
	}
	rec, err := RecordOf(s.Manifest)
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
	copied, err := eng.unstackable(ctx, rec)
	if err != nil {
		return err
	}
	a, release, err := eng.enrollAs(ctx, rec, app.Restoring, t)
	if err != nil {
		return err
	}
	defer release()
	defer func() {
		if err != nil {
			err = errors.Join(err, eng.expunge(context.WithoutCancel(ctx), a))
		}
	}()
	if !eng.Catalog.Has(t) { // removed before it could be seen that it has a ready clone
		return fmt.Errorf("template %s: %w", t.Name, errdefs.ErrNotFound)
	}
	a.remarkNote(repeats(images.Repeats, cloned))
	if err := fault.Point(ctx, fault.PoolAfterRecord); err != nil {
		return err
	}
	if err := layer.Flatten(ctx, copied, rec.Spec.Root.Path, a.Box.Upper()); err != nil {
		return err
	}
	ns, err := eng.prepare(ctx, a)
	if err != nil {
		return err
	}
	if err := ns.Close(); err != nil {
		return err
	}
	if err := eng.relink(ctx, a); err != nil {
		return err
	}
	// Its listeners would take connections, and its sockets datagrams.
	if err := a.Endpoint.Isolate(ctx); err != nil {
		return err
	}
	if err := a.subject().LoadDev(ctx, s.Dir); err != nil {
		return err
	}
	if err := t.Rules.Ahead(a.Box.Root(), images.Open); err != nil {
		return err
	}
	connections, err := s.connections(t.Rules.Connections.Internal)
	if err != nil {
		return err
	}
	proc, err := eng.tools().Revive(ctx, a.subject(), checkpoint.Revival{
		From: s.Dir, Manifest: s.Manifest, Pages: rec.RestoreMemory, Frozen: true, Step: op.Step,
		Connections: connections, Options: s.socketOptions, SetNetwork: true,
		Enclose: func(ctx context.Context) (*netns.NS, error) { return eng.prepared(ctx, a) },
	})
	if err != nil {
		return err
	}
	if err := fault.Point(ctx, fault.PoolAfterRestore); err != nil {
		return errors.Join(err, proc.Close())
	}
	if err := eng.adoptAs(a, proc, app.Pooled, journal.UntilReboot); err != nil {
		return err
	}
	a.Endpoint.Ready()
	app.KeepSpare(a.Dir())
	return fault.Point(ctx, fault.PoolAfterCommit)
}
