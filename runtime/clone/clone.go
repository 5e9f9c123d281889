package clone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/template"
)

// Request says what clones are made of a template.
type Request struct {
	Count     int
	Names     []string // one for each; chosen by ChooseNames if there are none
	Pattern   string   // of names to be chosen
	Start     int      // the first number, if it is to be another than the next free one
	numbers   []int
	Endpoints []netip.Addr // one for each, or none
	Set       map[string]string
	Policy    engine.Policy
	Files     engine.Files // the template's are the snapshot's
	Pool      PoolUse
	KeepGoing bool
	batch     string        // see batch.go
	Op        event.ID      // of the request
	Done      func(Outcome) // called by several at the same time
}

// PoolUse says whether a clone may come from the pool.
type PoolUse int

// Where a clone may come from.
const (
	UsePool PoolUse = iota // if one stands ready
	OnlyPool
	NeverPool
)

// Outcome is what became of one clone.
type Outcome struct {
	Name   string
	App    *engine.App // nil if it failed
	Pooled bool        // it came from the pool
	Ended  event.Event
}

// cloning is one clone of a request.
type cloning struct {
	t        *catalog.Template
	source   *engine.Source // nil for one from the pool
	images   *template.Images
	req      *Request
	index    int
	existing int // how many clones there were before

	app  *engine.App // once it is enrolled, or taken from the pool
	born engine.Birth
}

// name is the clone's.
func (one *cloning) name() string { return one.req.Names[one.index] }

// plan is what the rules of the template say of the clone, which has its name and its endpoint.
func (one *cloning) plan() (*template.Plan, error) {
	p, err := one.t.Rules.Plan(one.app.Instance(len(one.req.Names), one.existing, one.req.Set))
	if err != nil {
		return nil, fmt.Errorf("rules of template %s: %w: %w", one.t.Name, errdefs.ErrInvalidArgument, err)
	}
	return p, nil
}

// Make makes clones, several at a time, of a request that [Clones.ChooseNames] has seen. It
// returns an error if one fails, or ctx ends, and the request does not say to keep going: then no
// clone is left. Else the outcomes say which of them there are.
func (c *Clones) Make(ctx context.Context, t *catalog.Template, req Request) error {
	from := &lazySource{store: c.Store, t: t}
	defer from.close()
	images, err := from.images(ctx)
	if err != nil {
		return err
	}
	if len(req.Names) > 1 && !req.KeepGoing {
		if req.batch, err = c.batches.begin(); err != nil {
			return err
		}
	}
	made := &madeClones{}
	// A restore mostly waits for the kernel, some 10 ms, or for one processor.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, 2*runtime.NumCPU()))
	existing := len(c.Of(t.Name))
	for i := range req.Names {
		one := cloning{t: t, images: images, req: &req, index: i, existing: existing}
		// One after the other, so that endpoints are in the order of numbers.
		pooled, release, err := c.takeFromPool(gctx, &one)
		kind, finish := event.Clone, c.makeClone
		if pooled || err != nil {
			kind, finish = event.HandOut, c.handOut
		}
		op := c.Events.Begin(kind, event.About{App: one.name(), Template: t.Name, Within: req.Op})
		if !pooled && err == nil {
			if one.source, err = from.get(gctx); err == nil {
				release, err = c.enrollClone(gctx, &one)
			}
		}
		g.Go(func() error {
			out := Outcome{Name: one.name(), Pooled: pooled}
			if err == nil {
				out.App = one.app
				err = finish(gctx, one, op)
				release()
			}
			out.Ended = op.End(err)
			if err == nil {
				made.add(out.App)
			}
			req.Done(out)
			if req.KeepGoing {
				return nil // also if there was no time for it: those that are ready stay
			}
			return err
		})
	}
	err = g.Wait()
	if err == nil {
		err = fault.Point(ctx, fault.CloneBeforeEnd)
	}
	if err == nil {
		err = c.batches.end(req.batch)
	}
	if err == nil {
		return nil
	}
	// What fails because it was interrupted may not say so.
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if uerr := c.undoClones(context.WithoutCancel(ctx), made.list); uerr != nil {
		return errors.Join(err, uerr) // the next daemon undoes the rest
	}
	return errors.Join(err, c.batches.end(req.batch))
}

type madeClones struct {
	mu   sync.Mutex
	list []*engine.App
}

func (m *madeClones) add(a *engine.App) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, a)
}

// undoClones removes clones that were made with one that failed.
func (c *Clones) undoClones(ctx context.Context, list []*engine.App) error {
	var g errgroup.Group
	g.SetLimit(max(4, 2*runtime.NumCPU()))
	for _, a := range list {
		g.Go(func() error {
			release, err := a.Take(ctx, "undo")
			if err != nil {
				return err
			}
			defer release()
			return c.Engine.Expunge(ctx, a)
		})
	}
	return g.Wait()
}

// enrollClone gives a clone its name and endpoint, and takes its turn.
func (c *Clones) enrollClone(ctx context.Context, one *cloning) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err // another one has failed
	}
	rec, err := engine.RecordOf(one.source.Manifest)
	if err != nil {
		return nil, err
	}
	rec.Name, rec.RestoredFrom = one.name(), one.t.Snapshot
	rec.Batch = one.req.batch
	rec.Template, rec.Number, rec.Generation = one.t.Name, one.req.numbers[one.index], template.NewGeneration()
	if err := rec.HeedRules(one.t.Rules); err != nil {
		return nil, err
	}
	one.req.Policy.Change(rec)
	if len(one.req.Endpoints) > 0 {
		rec.Addr4 = one.req.Endpoints[one.index]
	}
	one.born = engine.Birth{Source: one.source, Images: one.images, Files: one.req.Files, Pages: rec.RestoreMemory}
	one.app, release, err = c.Engine.Enroll(ctx, *rec, &one.born)
	return release, err
}

// makeClone makes an enrolled clone. If it fails nothing is left of it.
func (c *Clones) makeClone(ctx context.Context, one cloning, op *event.Operation) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Engine.Expunge(context.WithoutCancel(ctx), one.app))
		}
	}()
	if err := fault.Point(ctx, fault.CloneAfterRecord); err != nil {
		return err
	}
	if one.born.Plan, err = one.plan(); err != nil {
		return err
	}
	if err := c.Engine.Instantiate(ctx, one.app, one.born, op); err != nil {
		return fmt.Errorf("clone %s: %w", one.name(), err)
	}
	return fault.Point(ctx, fault.CloneAfterCommit)
}
