package clone

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
)

// KeepPools fills and empties the pools whenever it is asked to, but not while
// somebody asks for clones. It ends with ctx.
func (c *Clones) KeepPools(ctx context.Context) {
	c.run(ctx, c.Catalog.List, poolKeeper{c})
}

// SetPool sets how many clones of a template are to stand ready, and has them made or removed.
func (c *Clones) SetPool(ctx context.Context, t *catalog.Template, size int) error {
	if _, m, err := c.Store.Find(t.Snapshot); err != nil {
		return err
	} else if m.Processes == 0 && size > 0 {
		return app.Refusef("template %s has no processes that could stand ready: its clones start their program", t.Name)
	}
	if err := c.Catalog.SetReady(ctx, t, size); err != nil {
		return err
	}
	c.Soon()
	return nil
}

// CountReady counts the ready clones of a template that can be had at once.
func (c *Clones) CountReady(t *catalog.Template) int {
	ready := 0
	for _, a := range c.standing(t) {
		if a.Status() == app.Pooled && a.Free() {
			ready++
		}
	}
	return ready
}

// standing lists the ready clones of a template, oldest first, but for those that were handed out, or
// that the engine has removed because another app has their address.
func (c *Clones) standing(t *catalog.Template) []*engine.App {
	var some []*engine.App
	for _, a := range c.pools.standing(t) {
		if rec, _ := a.Read(); rec.Pool != "" && c.Apps.Has(a) {
			some = append(some, a)
		} else {
			c.left(a)
		}
	}
	return some
}

// poolKeeper makes and removes ready clones for pools.
type poolKeeper struct{ *Clones }

var _ keeper = poolKeeper{}

// dropStrays implements keeper. The ready clones of an earlier daemon are of no template.
func (k poolKeeper) dropStrays(ctx context.Context) error {
	var errs []error
	var ours []*engine.App
	for _, t := range k.templates() {
		some := k.standing(t)
		if k.Catalog.Has(t) {
			ours = append(ours, some...)
			continue
		}
		for _, a := range some {
			errs = append(errs, k.drop(ctx, a))
		}
	}
	for _, a := range k.Apps.List() {
		if rec, _ := a.Read(); rec.Pool != "" && !slices.Contains(ours, a) {
			errs = append(errs, k.drop(ctx, a))
		}
	}
	return errors.Join(errs...)
}

// keepPool implements keeper.
func (k poolKeeper) keepPool(ctx context.Context, t *catalog.Template) error {
	var errs []error
	ready := 0
	for _, a := range k.standing(t) {
		if a.Status() == app.Pooled {
			if ready++; ready <= k.Catalog.Ready(t) {
				continue
			}
			ready--
		}
		errs = append(errs, k.drop(ctx, a))
	}
	for ; ready < k.Catalog.Ready(t) && k.calm(ctx); ready++ {
		k.record() // pools does it again
		if err := k.makeReady(ctx, t); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(errs...)
}

// drop removes a ready clone, unless it was handed out meanwhile.
func (c *Clones) drop(ctx context.Context, a *engine.App) error {
	if err := c.Engine.DropReady(ctx, a); err != nil {
		return err
	}
	c.left(a)
	return nil
}

// makeReady makes one clone for the pool.
func (c *Clones) makeReady(ctx context.Context, t *catalog.Template) (err error) {
	op := c.Events.Begin(event.FillPool, event.About{Template: t.Name})
	defer func() { op.End(err) }()
	ctx, cancel := context.WithTimeout(ctx, engine.DefaultTimeout)
	defer cancel()
	opened, err := c.Store.Open(ctx, t.Snapshot, snapshot.ByStamp)
	if err != nil {
		return err
	}
	s := source.Source{Snapshot: opened}
	defer s.Close()
	images, err := t.Inspect(ctx, s.Inspect)
	if err != nil {
		return err
	}
	rec, err := source.RecordOf(s.Manifest)
	if err != nil {
		return err
	}
	if err := rec.HeedRules(t.Rules); err != nil {
		return err
	}
	// No name that somebody could choose, see snapshot.ValidateName.
	rec.ID = "_pool-" + rand.Text()[:10]
	rec.Name, rec.Pool, rec.RestoredFrom = rec.ID, t.Name, t.Snapshot
	born := birth.Birth{Source: &s, Images: images, Pages: rec.RestoreMemory}
	r, release, err := c.Maker.Enroll(ctx, *rec, &born, op)
	if err != nil {
		return err
	}
	defer release()
	a := r.Subject
	c.stands(a, t)
	err = r.Do(ctx, func(ctx context.Context) error {
		if !c.Catalog.Has(t) { // removed before it could be seen that it has a ready clone
			return fmt.Errorf("template %s: %w", t.Name, errdefs.ErrNotFound)
		}
		return c.Maker.MakeReady(ctx, r, born, t.Rules)
	})
	if a.Gone() {
		c.left(a)
	}
	return err
}
