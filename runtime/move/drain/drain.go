package drain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/move"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/membership"
)

// Hosts are the hosts of the installation.
type Hosts interface {
	// Self is the name of this host; empty if it is in no installation.
	Self() string
	List(ctx context.Context) ([]membership.Host, error)
	SetCordoned(ctx context.Context, host string, cordoned bool) (*membership.Host, error)
}

// Options are what a drainer works with. All are required.
type Options struct {
	Apps  Apps
	Hosts Hosts
	// Available tells how many bytes of memory another host has available.
	Available func(ctx context.Context, host string) (int64, error)
	// Run runs what goes on beside requests, with a context that ends when the daemon does.
	Run func(func(context.Context))
	Log *slog.Logger
}

// Drainer has this host give its apps to others. Its methods may be called at the same time.
type Drainer struct {
	opt  Options
	busy atomic.Bool // a drain goes on
}

// New returns a drainer.
func New(o Options) *Drainer { return &Drainer{opt: o} }

// DefaultParallel is how many apps move at the same time, if nobody says how many.
const DefaultParallel = 2

// Request says how a host is drained.
type Request struct {
	Host     string   // this one; "": likewise
	To       []string // hosts that its apps may move to; none: any
	Parallel int      // how many apps move at the same time; 0: [DefaultParallel]
	DryRun   bool     // only ask where apps could move, and cordon nothing
	// SharedBinds is as in [move.Request].
	SharedBinds bool
	// Told is told how it goes on, by one goroutine at a time.
	Told func(Event)
}

// Event is that something goes on with an app.
type Event struct {
	App, To, Step string
	Carried       move.Carried
	Ended         *Outcome // what became of the app; nil: it is being moved
}

// Outcome is what became of an app.
type Outcome struct {
	App    string
	Status app.Status   // that it had
	To     string       // where it is, or could go; "": it stays
	Report *move.Report // nil if it stays
	Err    error        // why it stays
}

// Report is what became of a drain.
type Report struct {
	Host    string
	Apps    []Outcome // by name
	Stopped bool      // it was ended before all apps were looked at
}

// ErrStopped is why an app stays that was not looked at before the drain was ended.
var ErrStopped = errors.New("the drain was ended before the app's turn came")

// Drain moves all apps of this host to others. When ctx ends no more of them begin to move; those that do then go on,
// and Drain returns when they have ended. An app that can't move is as it was, and no error of Drain. This host is
// cordoned, and stays so. Returns a [*membership.Error] if that is not possible, with all apps where they were.
func (d *Drainer) Drain(ctx context.Context, req Request) (*Report, error) {
	self := d.opt.Hosts.Self()
	switch {
	case self == "":
		return nil, membership.Alone()
	case req.Host != "" && req.Host != self:
		return nil, &membership.Error{
			Text:   fmt.Sprintf("host %s is drained on host %s itself, and this is host %s", req.Host, req.Host, self),
			Remedy: fmt.Sprintf("run it there: snapctl host drain; host cordon %s keeps apps from it from here", req.Host),
		}
	case !d.busy.CompareAndSwap(false, true):
		return nil, &membership.Error{Text: "this host is being drained", Remedy: "wait for that: it goes on by itself, and snapctl ps shows what is left"}
	}
	defer d.busy.Store(false)
	all, err := d.opt.Hosts.List(ctx)
	if err != nil {
		return nil, err
	}
	v := &voyage{Drainer: d, req: req, stop: ctx, handled: make(map[string]bool), coming: make(map[string]int64)}
	if v.targets, err = targetsOf(all, self, req.To); err != nil {
		return nil, err
	}
	if !req.DryRun {
		if _, err := d.opt.Hosts.SetCordoned(ctx, self, true); err != nil {
			return nil, err
		}
	}
	done := make(chan struct{})
	d.opt.Run(func(ctx context.Context) {
		defer close(done)
		v.run(ctx)
	})
	<-done
	r := &Report{Host: self, Apps: v.outcomes, Stopped: v.stopped}
	if !req.DryRun {
		d.opt.Log.InfoContext(ctx, "host drained", slog.Int("moved", r.count(true)), slog.Int("stay", r.count(false)), slog.Bool("stopped", r.Stopped))
	}
	return r, nil
}

// count counts the apps that moved, or those that stay.
func (r *Report) count(moved bool) (n int) {
	for _, o := range r.Apps {
		if (o.Err == nil) == moved {
			n++
		}
	}
	return n
}

// voyage is one drain.
type voyage struct {
	*Drainer
	req     Request
	targets []target
	stop    context.Context //nolint:containedctx // that of the request, besides that of the daemon

	mu       sync.Mutex // guards what follows, and is held while Told is called
	handled  map[string]bool
	coming   map[string]int64 // bytes that are on the way to hosts
	outcomes []Outcome
	stopped  bool
}

// run moves apps until none is left that was not looked at, and notes those that were not. ctx is the daemon's.
func (v *voyage) run(ctx context.Context) {
	for v.pass(ctx) {
	}
	for _, name := range v.opt.Apps.Names() {
		if !v.handled[name] {
			v.outcomes, v.stopped = append(v.outcomes, Outcome{App: name, Err: ErrStopped}), true
		}
	}
	slices.SortFunc(v.outcomes, func(a, b Outcome) int { return strings.Compare(a.App, b.App) })
}

// pass moves the apps that there are and that were not looked at, and tells whether there was one.
func (v *voyage) pass(ctx context.Context) (some bool) {
	var g errgroup.Group
	g.SetLimit(max(1, v.parallel()))
	for _, name := range v.opt.Apps.Names() {
		g.Go(func() error {
			if v.begin(name) {
				v.one(ctx, name)
			}
			return nil
		})
	}
	_ = g.Wait()
	if v.stop.Err() != nil {
		return false
	}
	for _, name := range v.opt.Apps.Names() {
		some = some || !v.handled[name]
	}
	return some
}

func (v *voyage) parallel() int {
	if v.req.Parallel == 0 {
		return DefaultParallel
	}
	return v.req.Parallel
}

// begin tells whether an app is to be looked at.
func (v *voyage) begin(name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stop.Err() != nil || v.handled[name] {
		return false
	}
	v.handled[name] = true
	return true
}

// one moves one app.
func (v *voyage) one(ctx context.Context, name string) {
	o := Outcome{App: name}
	a, err := v.opt.Apps.Await(v.stop, name) //nolint:contextcheck // it is not waited for when the drain is ended
	if err == nil {
		o.Status = a.Status
		o.To, o.Report, err = v.place(ctx, a)
	}
	if gone(err) && !slices.Contains(v.opt.Apps.Names(), name) {
		return // somebody has removed it
	}
	if v.stop.Err() != nil && errors.Is(err, context.Canceled) {
		err = ErrStopped
	}
	o.Err = err
	v.mu.Lock()
	defer v.mu.Unlock()
	v.outcomes = append(v.outcomes, o)
	v.stopped = v.stopped || errors.Is(err, ErrStopped)
	v.tell(Event{App: name, To: o.To, Ended: &o})
}

// tell tells of something. The caller has the mu.
func (v *voyage) tell(e Event) {
	if v.req.Told != nil {
		v.req.Told(e)
	}
}

// place moves an app to the host with the most room, or to another one if that refuses.
func (v *voyage) place(ctx context.Context, a App) (string, *move.Report, error) {
	tried := make(map[string]bool)
	var refusals []error
	for {
		to, targets := v.reserve(v.look(ctx, v.targets), a, tried)
		if to == "" && len(refusals) == 0 {
			return "", nil, noTarget(targets, tried)
		}
		if to == "" {
			return "", nil, errors.Join(refusals...)
		}
		tried[to] = true
		r, err := v.move(ctx, a, to)
		v.free(to, a)
		if err == nil {
			return to, r, nil
		}
		refusals = append(refusals, err)
		if !elsewhere(err) || v.stop.Err() != nil {
			return "", nil, errors.Join(refusals...)
		}
	}
}

// reserve chooses a host for an app, and takes note that it is on the way there.
func (v *voyage) reserve(targets []target, a App, tried map[string]bool) (string, []target) {
	v.mu.Lock()
	defer v.mu.Unlock()
	to, why := choose(targets, a.Bytes, v.coming, tried)
	if to != "" {
		v.coming[to] += a.Bytes
	}
	return to, why
}

func (v *voyage) free(to string, a App) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.coming[to] -= a.Bytes
}

// elsewhere tells whether an app that could not move may be able to move to another host.
func elsewhere(err error) bool {
	if _, refused := errors.AsType[*message.RefusedError](err); refused {
		return true
	}
	_, unreachable := errors.AsType[*control.UnreachableError](err)
	return unreachable
}

func (v *voyage) move(ctx context.Context, a App, to string) (*move.Report, error) {
	step := ""
	tell := func(c move.Carried) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.tell(Event{App: a.Name, To: to, Step: step, Carried: c})
	}
	return v.opt.Apps.Move(ctx, a.Name, move.Request{To: to, DryRun: v.req.DryRun, SharedBinds: v.req.SharedBinds, Told: func(c move.Carried) { tell(c) }}, func(now string) {
		v.mu.Lock()
		step = now
		v.mu.Unlock()
		tell(move.Carried{})
	})
}
