// Package registrar keeps what the directory says of this host's endpoints, and this host's ledger of them,
// as the VEM has them: endpoints that come are claimed, those that go are released, and those that
// another host has got are known to be lost. It does so beside the operations on apps, none of which
// waits for the directory, but for those that ask for an endpoint of another host.
//
//	VEM: endpoints ──Changed──▶ Registrar ──Session──▶ directory
//	                               │  ▲                    │
//	                               ▼  └──── cache ◀────────┘
//	                             ledger ──▶ may a copy send?
package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// Endpoint is an endpoint of this host, as the VEM has it.
type Endpoint struct {
	Network string
	App     string
	Addr4   netip.Addr
	Ports   string // that it publishes at all addresses of the host, see [gateway.FormatPorts]
}

// Spot is where the endpoint is.
func (e Endpoint) Spot() ownership.Spot { return ownership.Spot{Network: e.Network, Addr: e.Addr4} }

// Networks is the VEM: the networks and endpoints of this host.
type Networks interface {
	mesh.Queues
	gateway.VEM

	// Present returns the endpoints that are in their networks.
	Present() []Endpoint
	// Wanted returns the endpoints whose apps run, are held, or are being made, also those that
	// are not in their networks.
	Wanted() []Endpoint
	// Find returns the endpoint that has an address of either family and is in its network.
	Find(network string, a netip.Addr) (Endpoint, bool)
	// Away tells whether an endpoint that has an address of either family is not in its network for
	// the moment, since its app moves to another host or comes from one.
	Away(network string, a netip.Addr) bool
	// Holding returns the names of the apps whose sockets are held.
	Holding() map[string]bool
	// SetRanges says from which addresses of a network those of new endpoints are chosen.
	SetRanges(network string, ranges []netip.Prefix)
}

// again is how long the registrar waits until it looks again, if nobody has told it of a change.
const again = 5 * time.Second

// Options are what a registrar works with. All are required.
type Options struct {
	Self, Key string
	Directory *directory.Directory
	Cache     *cache.Cache
	Ranges    *ownership.Ranges
	Local     Networks
	Ledger    *ownership.Ledger
	Boot      string                    // another one after the host was started again
	Private   func(network string) bool // it is not in the directory
	// Recovered is closed when the VEM knows all endpoints that an earlier daemon had.
	Recovered <-chan struct{}
	// Admitted is told that other endpoints than before may be in their networks.
	Admitted func()
	Gateway  *gateway.Forwarder
	Step     func(ctx context.Context, name string) error // see [membership.Membership.Step]
	Log      *slog.Logger
}

// Registrar keeps the directory's records of this host's endpoints as the VEM has them, and the
// ledger as the directory says.
type Registrar struct {
	opt     Options
	changed chan struct{}                     // has a token if something has changed
	ready   chan struct{}                     // closed when this host's networks are in the directory
	turn    chan struct{}                     // has a token while somebody writes
	session atomic.Pointer[directory.Session] // nil: none was begun yet
	// restored is the last restoration of the directory before the session; nil: there is none yet.
	restored atomic.Pointer[string]

	mu      sync.Mutex                // guards what follows
	failed  map[ownership.Spot]string // what was logged of an endpoint
	trouble error                     // why the directory does not know all endpoints
}

// New makes a registrar, which does nothing before [Registrar.Run].
func New(o Options) *Registrar {
	return &Registrar{
		opt: o, changed: make(chan struct{}, 1), ready: make(chan struct{}), turn: make(chan struct{}, 1),
		failed: make(map[ownership.Spot]string),
	}
}

// Changed tells that endpoints have come or gone. It returns at once.
func (r *Registrar) Changed() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Ready is closed when this host's networks are in the directory.
func (r *Registrar) Ready() <-chan struct{} { return r.ready }

// Begun tells whether this host can write into the directory. It may be called on nil.
func (r *Registrar) Begun() bool { return r != nil && r.session.Load() != nil }

// Epoch is that with which this host has an endpoint.
func (r *Registrar) Epoch(e Endpoint) uint64 {
	c, _ := r.opt.Ledger.Get(e.Spot())
	return max(c.Endpoint.Epoch, 1)
}

// Owner implements [peering.Owners].
func (r *Registrar) Owner(ctx context.Context, network string, a netip.Addr) (peering.Owner, error) {
	e, err := r.opt.Cache.Lookup(ctx, network, a)
	if errors.Is(err, directory.ErrNotFound) {
		return peering.Owner{}, fmt.Errorf("%w: %w", slowpath.ErrNobody, err)
	}
	return peering.Owner{Host: e.Owner, Epoch: e.Epoch}, err
}

// Run keeps the records until ctx ends.
func (r *Registrar) Run(ctx context.Context) {
	select {
	case <-r.opt.Recovered:
	case <-ctx.Done():
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := sync.OnceFunc(func() { close(r.ready) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		case <-timer.C:
		}
		timer.Reset(again)
		err := r.keep(ctx)
		r.setTrouble(err)
		if err == nil {
			done()
		}
		if errors.Is(err, directory.ErrDisplaced) {
			r.opt.Log.ErrorContext(ctx, "this host writes nothing into the directory any more", slog.Any("error", err))
			return
		}
		if err != nil && ctx.Err() == nil {
			r.opt.Log.WarnContext(ctx, "the directory does not know all endpoints of this host yet", slog.Any("error", err))
		}
	}
}

// keep makes the records as the VEM's endpoints are, in a session of this host.
func (r *Registrar) keep(ctx context.Context) error {
	done, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := r.session.Load()
	mark, err := r.opt.Directory.Restored(ctx)
	if err != nil {
		return err
	}
	// A directory that was restored does not know the session, or knows it as it was before.
	if s == nil || *r.restored.Load() != mark.ID {
		if s, err = r.begin(ctx); err != nil {
			return err
		}
	}
	if err = r.sync(ctx, s); errors.Is(err, directory.ErrForgotten) {
		if s, err = r.begin(ctx); err == nil {
			err = r.sync(ctx, s)
		}
	}
	return err
}

// enter waits for the turn to write. done gives it back.
func (r *Registrar) enter(ctx context.Context) (done func(), err error) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for what this host writes into the directory: %w", ctx.Err())
	}
}

func (r *Registrar) setTrouble(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = err
}

// Why tells why nothing is known of an endpoint; nil if it is not known.
func (r *Registrar) Why(at ownership.Spot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := r.failed[at]; text != "" {
		return errors.New(text)
	}
	return r.trouble
}

// seenWithin is how long it takes at most until the directory says that this host is seen.
const seenWithin = 5 * time.Second

// begin begins the session of this host, and asks which of its copies may send. That is done only
// when the host is seen: from then on nobody takes an endpoint over from it.
func (r *Registrar) begin(ctx context.Context) (*directory.Session, error) {
	mark, err := r.opt.Directory.Restored(ctx)
	if err != nil {
		return nil, err
	}
	s, err := r.opt.Directory.Begin(ctx, r.opt.Self, r.opt.Key, time.Now())
	if err == nil {
		err = r.beSeen(ctx)
	}
	if err == nil {
		err = r.takeUp(ctx, s, mark.ID)
	}
	if err != nil {
		return nil, err
	}
	r.restored.Store(&mark.ID)
	r.session.Store(s)
	return s, nil
}

func (r *Registrar) beSeen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	for {
		seen, err := r.opt.Directory.Seen(ctx)
		if err != nil || seen[r.opt.Self] {
			return err
		}
		if !pause.For(ctx, 20*time.Millisecond, nil) {
			return fmt.Errorf("be seen by other hosts: %w", directory.ErrUnavailable)
		}
	}
}

// Unreached are why other hosts don't reach apps of this one.
func (r *Registrar) Unreached() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, text := range r.failed {
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}
