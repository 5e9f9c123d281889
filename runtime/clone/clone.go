package clone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/template"
)

// Request says what clones are made of a template.
type Request struct {
	Count     int
	Names     []string // one for each; chosen by ChooseNames if there are none
	Pattern   string   // of names to be chosen
	Start     int      // the first number, if it is to be another than the next free one
	Least     int      // the first number is no lower, if it is chosen
	numbers   []int
	Endpoints []netip.Addr // one for each, or none
	Set       map[string]string
	Policy    app.PolicyChange
	Files     birth.Files // the template's are the snapshot's
	Pool      PoolUse
	KeepGoing bool
	together  *request      // see request.go
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
	source   *source.Source // nil for one from the pool
	images   *template.Images
	req      *Request
	index    int
	existing int // how many clones there were before

	run  *engine.Run // that makes it: it is enrolled, or taken from the pool
	born birth.Birth
}

// name is the clone's.
func (one *cloning) name() string { return one.req.Names[one.index] }

// plan is what the rules of the template say of the clone, which has its name and its endpoint.
func (one *cloning) plan() (*template.Plan, error) {
	p, err := one.t.Rules.Plan(birth.Instance(one.run.Subject, len(one.req.Names), one.existing, one.req.Set))
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
	req.together = c.newRequest(&req)
	r, err := c.requests.Begin(req.together, nil)
	if err != nil {
		return err
	}
	return r.Do(ctx, func(ctx context.Context) error {
		err := c.makeAll(ctx, r, cloning{t: t, images: images, req: &req, existing: len(c.Of(t.Name))}, from)
		// What fails because it was interrupted may not say so.
		if cause := ctx.Err(); err != nil && cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		if err != nil {
			return err
		}
		if err := r.At(ctx, "complete"); err != nil {
			return err
		}
		return r.At(ctx, "over")
	})
}

// makeAll makes the clones of a request.
func (c *Clones) makeAll(ctx context.Context, r *journal.Run[*request], each cloning, from *lazySource) error {
	req := each.req
	// A restore mostly waits for the kernel, some 10 ms, or for one processor.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, 2*runtime.NumCPU()))
	for i := range req.Names {
		one := each
		one.index = i
		// One after the other, so that endpoints are in the order of numbers.
		pooled, release, err := c.takeFromPool(gctx, &one)
		kind, finish := event.Clone, c.makeClone
		if pooled || err != nil {
			kind, finish = event.HandOut, c.handOut
		}
		op := c.Events.Begin(kind, event.About{App: one.name(), Template: one.t.Name, Within: req.Op})
		if !pooled && err == nil {
			if one.source, err = from.get(gctx); err == nil {
				release, err = c.enrollClone(gctx, &one, op)
			}
		}
		g.Go(func() error {
			out := Outcome{Name: one.name(), Pooled: pooled}
			if err == nil {
				out.App = one.run.Subject
				err = finish(gctx, one, op)
				release()
			}
			out.Ended = op.End(err)
			if err == nil {
				req.together.add(out.App)
				err = r.At(gctx, "recorded")
			}
			req.Done(out)
			if req.KeepGoing {
				return nil // also if there was no time for it: those that are ready stay
			}
			return err
		})
	}
	return g.Wait()
}

// enrollClone gives a clone its name and endpoint, and takes its turn.
func (c *Clones) enrollClone(ctx context.Context, one *cloning, op *event.Operation) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err // another one has failed
	}
	rec, err := source.RecordOf(one.source.Manifest)
	if err != nil {
		return nil, err
	}
	rec.Name, rec.RestoredFrom = one.name(), one.t.Snapshot
	rec.Batch = one.req.together.name
	rec.Template, rec.Number, rec.Generation = one.t.Name, one.req.numbers[one.index], template.NewGeneration()
	if err := rec.HeedRules(one.t.Rules); err != nil {
		return nil, err
	}
	one.req.Policy.Change(rec)
	if len(one.req.Endpoints) > 0 {
		rec.Addr4 = one.req.Endpoints[one.index]
	}
	one.born = birth.Birth{Source: one.source, Images: one.images, Files: one.req.Files, Pages: rec.RestoreMemory}
	one.run, release, err = c.Maker.Enroll(ctx, *rec, &one.born, op)
	return release, err
}

// makeClone makes an enrolled clone. If it fails nothing is left of it.
func (c *Clones) makeClone(ctx context.Context, one cloning, _ *event.Operation) error {
	return one.run.Do(ctx, func(ctx context.Context) (err error) {
		if one.born.Plan, err = one.plan(); err != nil {
			return err
		}
		if err := c.Maker.Instantiate(ctx, one.run, one.born); err != nil {
			return fmt.Errorf("clone %s: %w", one.name(), err)
		}
		return nil
	})
}
