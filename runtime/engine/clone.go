package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// CloneRequest says what clones are made of a template.
type CloneRequest struct {
	Count     int
	Names     []string // one for each; chosen by NameClones if there are none
	Pattern   string   // of names to be chosen
	Start     int      // the first number, if it is to be another than the next free one
	numbers   []int
	Endpoints []netip.Addr // one for each, or none
	Set       map[string]string
	Policy    Policy
	Files     CloneFiles
	Pool      PoolUse
	KeepGoing bool
	batch     string             // see batch.go
	Op        event.ID           // of the request
	Done      func(CloneOutcome) // called by several at the same time
}

// CloneFiles says whose files a clone has.
type CloneFiles int

// Whose files a clone has.
const (
	SharedFiles  CloneFiles = iota // the template's, below its own
	PrivateFiles                   // a copy
)

// PoolUse says whether a clone may come from the pool.
type PoolUse int

// Where a clone may come from.
const (
	UsePool PoolUse = iota // if one stands ready
	OnlyPool
	NeverPool
)

// CloneOutcome is what became of one clone.
type CloneOutcome struct {
	Name   string
	App    *App // nil if it failed
	Pooled bool // it came from the pool
	Ended  event.Event
}

// MakeClones makes clones, several at a time. It returns an error if one fails, or
// ctx ends, and the request does not say to keep going: then no clone is left. Else
// the outcomes say which of them there are.
func (eng *Engine) MakeClones(ctx context.Context, t *catalog.Template, req CloneRequest) error {
	from := &lazySource{eng: eng, t: t}
	defer from.close()
	images, err := from.images(ctx)
	if err != nil {
		return err
	}
	if len(req.Names) > 1 && !req.KeepGoing {
		if req.batch, err = eng.beginBatch(); err != nil {
			return err
		}
	}
	made := &madeClones{}
	// A restore mostly waits for the kernel, some 10 ms, or for one processor.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, 2*runtime.NumCPU()))
	existing := len(eng.ClonesOf(t.Name))
	for i := range req.Names {
		c := cloning{t: t, images: images, req: &req, index: i, existing: existing}
		// One after the other, so that endpoints are in the order of numbers.
		pooled, release, err := eng.cloneFromPool(gctx, &c)
		kind, finish := event.Clone, eng.makeClone
		if pooled != nil || err != nil {
			kind, finish = event.HandOut, eng.handOut
		}
		op := eng.Events.Begin(kind, event.About{App: req.Names[i], Template: t.Name, Within: req.Op})
		if pooled == nil && err == nil {
			if c.source, err = from.get(gctx); err == nil {
				release, err = eng.enrollClone(gctx, &c)
			}
		}
		g.Go(func() error {
			out := CloneOutcome{Name: req.Names[i], Pooled: pooled != nil}
			if err == nil {
				out.App = c.app
				err = finish(gctx, c, op)
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
		err = eng.endBatch(req.batch)
	}
	if err == nil {
		return nil
	}
	// What fails because it was interrupted may not say so.
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if uerr := eng.undoClones(context.WithoutCancel(ctx), made.list); uerr != nil {
		return errors.Join(err, uerr) // the next daemon undoes the rest
	}
	return errors.Join(err, eng.endBatch(req.batch))
}

type madeClones struct {
	mu   sync.Mutex
	list []*App
}

func (m *madeClones) add(a *App) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, a)
}

// undoClones removes clones that were made with one that failed.
func (eng *Engine) undoClones(ctx context.Context, list []*App) error {
	var g errgroup.Group
	g.SetLimit(max(4, 2*runtime.NumCPU()))
	for _, a := range list {
		g.Go(func() error {
			release, err := a.Take(ctx, "undo")
			if err != nil {
				return err
			}
			defer release()
			return eng.expunge(ctx, a)
		})
	}
	return g.Wait()
}

// cloning is one clone of a request.
type cloning struct {
	t        *catalog.Template
	source   *Source // nil for one from the pool
	images   *catalog.Images
	req      *CloneRequest
	index    int
	existing int

	app  *App // once it is enrolled
	born birth
}

// ErrNoneReady is a pool that is empty.
var ErrNoneReady = errors.New("no clone stands ready")

// cloneFromPool takes a clone that stands ready, and its turn, if there is one and
// the request allows it; else it returns nil.
func (eng *Engine) cloneFromPool(ctx context.Context, c *cloning) (_ *App, release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err // another one has failed
	}
	special := len(c.req.Endpoints) > 0 || c.req.Files == PrivateFiles
	if c.req.Pool == NeverPool || special && c.req.Pool == UsePool {
		return nil, nil, nil
	}
	if special {
		return nil, nil, fmt.Errorf("%w: clones of the pool have endpoints and shared files already: ask for neither, or have others made", errdefs.ErrInvalidArgument)
	}
	c.app, release, err = eng.takePooled(c)
	if c.app == nil && err == nil && c.req.Pool == OnlyPool {
		err = ErrNoneReady
		if pages := c.req.Policy.Pages; pages != nil {
			err = fmt.Errorf("%w with its memory %s", err, *pages)
		}
		err = Refusef("template %s: %w", c.t.Name, err)
	}
	return c.app, release, err
}

// enrollClone gives a clone its name and endpoint, and takes its turn.
func (eng *Engine) enrollClone(ctx context.Context, c *cloning) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err // another one has failed
	}
	rec, err := RecordOf(c.source.Manifest)
	if err != nil {
		return nil, err
	}
	name := c.req.Names[c.index]
	rec.Name, rec.RestoredFrom = name, c.t.Snapshot
	rec.Batch = c.req.batch
	rec.Template, rec.Number, rec.Generation = c.t.Name, c.req.numbers[c.index], template.NewGeneration()
	if err := rec.HeedRules(c.t.Rules); err != nil {
		return nil, err
	}
	c.req.Policy.Change(rec)
	rec.ForgetMemory(rec.RestoreMemory)
	if len(c.req.Endpoints) > 0 {
		rec.Addr4 = c.req.Endpoints[c.index]
	}
	c.born = birth{source: c.source, images: c.images, pages: rec.RestoreMemory, acceptChanged: rec.AcceptChanged}
	if c.req.Files == PrivateFiles {
		c.born.copied, rec.Layers = eng.Storage.Paths(rec.Layers), nil
	} else if c.born.copied, err = eng.unstackable(ctx, rec); err != nil {
		return nil, err
	}
	c.app, release, err = eng.enroll(ctx, *rec, app.Restoring)
	return release, err
}

// makeClone makes an enrolled clone. If it fails nothing is left of it.
func (eng *Engine) makeClone(ctx context.Context, c cloning, op *event.Operation) (err error) {
	name := c.req.Names[c.index]
	defer func() {
		if err != nil {
			err = errors.Join(err, eng.expunge(context.WithoutCancel(ctx), c.app))
		}
	}()
	if err := fault.Point(ctx, fault.CloneAfterRecord); err != nil {
		return err
	}
	if c.born.plan, err = c.t.Rules.Plan(c.app.instance(len(c.req.Names), c.existing, c.req.Set)); err != nil {
		return fmt.Errorf("rules of template %s: %w: %w", c.t.Name, errdefs.ErrInvalidArgument, err)
	}
	if err := eng.instantiate(ctx, c.app, c.born, op); err != nil {
		return fmt.Errorf("clone %s: %w", name, err)
	}
	if err := fault.Point(ctx, fault.CloneAfterCommit); err != nil {
		return err
	}
	return nil
}

// lazySource is the snapshot of a template, opened when it is first
// needed: clones from the pool are made of it already.
type lazySource struct {
	eng    *Engine
	t      *catalog.Template
	opened *Source
}

func (l *lazySource) get(ctx context.Context) (_ *Source, err error) {
	if l.opened == nil {
		l.opened, err = l.eng.BeginSnapshot(ctx, l.t.Snapshot, snapshot.ByStamp)
	}
	return l.opened, err
}

// images tells what the template's images say; once it is known, without the snapshot.
func (l *lazySource) images(ctx context.Context) (*catalog.Images, error) {
	if known := l.t.Known(); known != nil {
		return known, nil
	}
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Checked(); err != nil {
		return nil, err
	}
	return l.t.Inspect(ctx, s.inspect)
}

func (l *lazySource) close() {
	if l.opened != nil {
		l.opened.Close()
	}
}
