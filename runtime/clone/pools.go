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
	"github.com/snapctl/snapctl/runtime/engine"
)

// keeper makes and removes ready clones.
type keeper interface {
	// keepPool brings the ready clones of a template to their number. It waits for
	// [pools.calm] before each one that it makes.
	keepPool(ctx context.Context, t *catalog.Template) error
	// dropStrays removes the ready clones of templates that are gone.
	dropStrays(ctx context.Context) error
}

// pools are the pools of all templates: what is ready, and when they are filled.
type pools struct {
	log   *slog.Logger
	fill  chan struct{} // has a token while somebody wants pools filled or emptied
	pause time.Duration // how long after a failure all is done again

	mu     sync.Mutex // guards what follows
	going  int        // requests for clones
	ended  time.Time  // when the last one ended
	ready  []standing // oldest first
	handed []*app.App // clones whose records are aside, see [app.New]
	failed map[*catalog.Template]error
}

// standing is a ready clone, from the moment on in which it is enrolled until it is handed out
// or removed.
type standing struct {
	app *engine.App
	of  *catalog.Template
}

// newPools makes pools that nobody keeps yet, see run. What fails is logged.
func newPools(log *slog.Logger) *pools {
	return &pools{log: log, fill: make(chan struct{}, 1), pause: 10 * time.Second, failed: make(map[*catalog.Template]error)}
}

const (
	// callPause is how long nobody has asked for a clone when it is calm. Whoever asks
	// for one after the other is not kept waiting by the filling of the pools.
	callPause = 100 * time.Millisecond
	// callPatience is how long to wait for it to be calm.
	callPatience = time.Second
)

// BeginRequest notes a request for clones, until end is called.
func (p *pools) BeginRequest() (end func()) {
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
func (p *pools) rest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.going > 0 {
		return callPause
	}
	return max(0, callPause-time.Since(p.ended))
}

// calm waits until nobody has asked for clones for 100 ms, but not for longer than a
// second. It returns false if ctx has ended.
func (p *pools) calm(ctx context.Context) bool {
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
func (p *pools) Soon() {
	select {
	case p.fill <- struct{}{}:
	default: // it is asked for already
	}
}

// Failed is why the pool of a template could not be filled when that was last tried; nil
// if it could.
func (p *pools) Failed(t *catalog.Template) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed[t]
}

// run fills and empties the pools at once, and then whenever Soon is called, but not while
// somebody asks for clones. It ends with ctx, and has all handed-out clones recorded then.
func (p *pools) run(ctx context.Context, templates func() []*catalog.Template, k keeper) {
	defer p.record()
	for p.calm(ctx) {
		ok := p.keepOnce(ctx, templates(), k)
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

// keepOnce fills and empties the pools once. It returns false if that has to be done again.
func (p *pools) keepOnce(ctx context.Context, templates []*catalog.Template, k keeper) (ok bool) {
	ok = true
	for _, t := range templates {
		err := k.keepPool(ctx, t)
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
	if err := k.dropStrays(ctx); err != nil && ctx.Err() == nil {
		ok = false
		p.log.ErrorContext(ctx, "empty pool", slog.Any("error", err))
	}
	return p.record() && ok
}

// tell notes why a pool could not be filled, or that it could.
func (p *pools) tell(t *catalog.Template, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		delete(p.failed, t)
	} else {
		p.failed[t] = err
	}
}

// forget forgets all templates but these.
func (p *pools) forget(templates []*catalog.Template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.failed, func(t *catalog.Template, _ error) bool { return !slices.Contains(templates, t) })
}

// stands notes a clone that is going to stand ready for a template.
func (p *pools) stands(a *engine.App, t *catalog.Template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, standing{a, t})
}

// left forgets a ready clone that was handed out or removed.
func (p *pools) left(a *engine.App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = slices.DeleteFunc(p.ready, func(s standing) bool { return s.app == a })
}

// standing lists the ready clones of a template, oldest first. Some may be on the way there, or
// may have ended meanwhile.
func (p *pools) standing(t *catalog.Template) []*engine.App {
	p.mu.Lock()
	defer p.mu.Unlock()
	var some []*engine.App
	for _, s := range p.ready {
		if s.of == t {
			some = append(some, s.app)
		}
	}
	return some
}

// templates lists the templates that have ready clones.
func (p *pools) templates() []*catalog.Template {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*catalog.Template
	for _, s := range p.ready {
		if !slices.Contains(all, s.of) {
			all = append(all, s.of)
		}
	}
	return all
}

// handedOut has the record of a clone written for good, when it is calm.
func (p *pools) handedOut(a *app.App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handed = append(p.handed, a)
}

// record writes the records of the clones that were handed out. It returns false if it has
// to be done again.
func (p *pools) record() bool {
	p.mu.Lock()
	list := p.handed
	p.handed = nil
	p.mu.Unlock()
	done := true
	for _, a := range list {
		release, ok := a.TryTake("record")
		if !ok { // an operation that mostly does it, too
			done = false
			p.handedOut(a)
			continue
		}
		if err := a.RecordProper(); err != nil {
			done = false
			p.handedOut(a)
			a.Note(err)
			p.log.Error("record a clone", slog.String("app", a.Name()), slog.Any("error", err))
		}
		release()
	}
	return done
}
