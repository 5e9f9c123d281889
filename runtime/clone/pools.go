// Package clone decides when clones are made before somebody asks for them.
//
// A template's pool is ready clones: restored, and frozen before their first instruction.
// A request for a clone gets one of them in a moment. [Pools] has the pools filled, which
// takes both processors, when nobody has asked for a clone for a while. It also has the
// records of handed-out clones written to the disk then, for which no request waits.
package clone

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/catalog"
)

// Keeper makes and removes ready clones.
type Keeper interface {
	// KeepPool brings the ready clones of a template to their number. It waits for
	// [Pools.Calm] before each one that it makes.
	KeepPool(ctx context.Context, t *catalog.Template) error
	// DropStrays removes the ready clones of templates that are gone.
	DropStrays(ctx context.Context) error
}

// Pools are the pools of all templates.
type Pools struct {
	log   *slog.Logger
	fill  chan struct{} // has a token while somebody wants pools filled or emptied
	pause time.Duration // how long after a failure all is done again

	mu     sync.Mutex // guards what follows
	going  int        // requests for clones
	ended  time.Time  // when the last one ended
	handed []*app.App // clones whose records are aside, see [app.App.RecordAside]
	failed map[*catalog.Template]error
}

// New makes pools that nobody keeps yet, see Run. What fails is logged.
func New(log *slog.Logger) *Pools {
	return &Pools{log: log, fill: make(chan struct{}, 1), pause: 10 * time.Second, failed: make(map[*catalog.Template]error)}
}

const (
	// callPause is how long nobody has asked for a clone when it is calm. Whoever asks
	// for one after the other is not kept waiting by the filling of the pools.
	callPause = 100 * time.Millisecond
	// callPatience is how long to wait for it to be calm.
	callPatience = time.Second
)

// Begin notes a request for clones, until end is called.
func (p *Pools) Begin() (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.going++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.going--
		p.ended = time.Now()
	}
}

// rest is how long it takes at least until it is calm, 0 if it is.
func (p *Pools) rest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.going > 0 {
		return callPause
	}
	return max(0, callPause-time.Since(p.ended))
}

// Calm waits until nobody has asked for clones for 100 ms, but not for longer than a
// second. It returns false if ctx has ended.
func (p *Pools) Calm(ctx context.Context) bool {
	patience, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	for {
		rest := p.rest()
		if rest == 0 {
			return ctx.Err() == nil
		}
		select {
		case <-time.After(rest):
		case <-patience.Done():
			return ctx.Err() == nil
		}
	}
}

// Soon has the pools filled or emptied.
func (p *Pools) Soon() {
	select {
	case p.fill <- struct{}{}:
	default: // it is asked for already
	}
}

// Failed is why the pool of a template could not be filled when that was last tried; nil
// if it could.
func (p *Pools) Failed(t *catalog.Template) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed[t]
}

// Run fills and empties the pools at once, and then whenever Soon is called, but not while
// somebody asks for clones. It ends with ctx, and has all handed-out clones recorded then.
func (p *Pools) Run(ctx context.Context, templates func() []*catalog.Template, keeper Keeper) {
	defer p.Record()
	for p.Calm(ctx) {
		ok := p.keep(ctx, templates(), keeper)
		if ctx.Err() != nil {
			return
		}
		var again <-chan time.Time
		if !ok {
			again = time.After(p.pause)
		}
		select {
		case <-p.fill:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// keep fills and empties the pools once. It returns false if that has to be done again.
func (p *Pools) keep(ctx context.Context, templates []*catalog.Template, keeper Keeper) (ok bool) {
	ok = true
	for _, t := range templates {
		err := keeper.KeepPool(ctx, t)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			ok = false
			p.log.ErrorContext(ctx, "fill pool", slog.String("template", t.Name), slog.Any("error", err))
		}
		p.tell(t, err)
	}
	p.forget(templates)
	if err := keeper.DropStrays(ctx); err != nil && ctx.Err() == nil {
		ok = false
		p.log.ErrorContext(ctx, "empty pool", slog.Any("error", err))
	}
	return p.Record() && ok
}

// tell notes why a pool could not be filled, or that it could.
func (p *Pools) tell(t *catalog.Template, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		delete(p.failed, t)
	} else {
		p.failed[t] = err
	}
}

// forget forgets all templates but these.
func (p *Pools) forget(templates []*catalog.Template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.failed, func(t *catalog.Template, _ error) bool { return !slices.Contains(templates, t) })
}

// HandedOut has the record of a clone written for good, when it is calm.
func (p *Pools) HandedOut(a *app.App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handed = append(p.handed, a)
}

// Record writes the records of the clones that were handed out. It returns false if it has
// to be done again.
func (p *Pools) Record() bool {
	p.mu.Lock()
	list := p.handed
	p.handed = nil
	p.mu.Unlock()
	done := true
	for _, a := range list {
		release, ok := a.TryTake("record")
		if !ok { // an operation that mostly does it, too
			done = false
			p.HandedOut(a)
			continue
		}
		if err := a.RecordProper(); err != nil {
			done = false
			p.HandedOut(a)
			a.Note(err)
			p.log.Error("record a clone", slog.String("app", a.Name()), slog.Any("error", err))
		}
		release()
	}
	return done
}
