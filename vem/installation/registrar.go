package installation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// Endpoint is an endpoint of this host, as the VEM has it.
type Endpoint struct {
	Network string
	App     string
	Addr4   netip.Addr
}

// Networks is the VEM: the networks and endpoints of this host.
type Networks interface {
	mesh.Queues

	// Present returns the endpoints that are in their networks.
	Present() []Endpoint
	// Find returns the endpoint that has an address of either family and is in its network.
	Find(network string, a netip.Addr) (Endpoint, bool)
	// Holding returns the names of the apps whose sockets are held.
	Holding() map[string]bool
	// Space returns the address space of a network.
	Space(network string) (address.Space, error)
	// SetRanges says from which addresses of a network those of new endpoints are chosen.
	SetRanges(network string, ranges []netip.Prefix)
}

// spot is an IPv4 address of a network.
type spot struct {
	network string
	addr    netip.Addr
}

// again is how long the registrar waits until it looks again, if nobody has told it of a change.
const again = 5 * time.Second

// Registrar keeps the directory's records of this host's endpoints as the VEM has them.
type Registrar struct {
	self      string
	key       string
	directory *directory.Directory
	cache     *cache.Cache
	local     Networks
	ranges    *ranges
	log       *slog.Logger
	changed   chan struct{} // has a token if something has changed
	ready     chan struct{} // closed when this host's networks are in the directory

	mu     sync.Mutex // guards what follows
	owned  map[spot]directory.Endpoint
	failed map[spot]string // what was logged of an endpoint
}

func newRegistrar(self, key string, d *directory.Directory, c *cache.Cache, rs *ranges, log *slog.Logger) *Registrar {
	return &Registrar{
		self: self, key: key, directory: d, cache: c, local: rs.local, ranges: rs, log: log,
		changed: make(chan struct{}, 1), ready: make(chan struct{}), owned: make(map[spot]directory.Endpoint), failed: make(map[spot]string),
	}
}

// Changed tells that endpoints have come or gone. It returns at once.
func (r *Registrar) Changed() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// epoch is that with which this host has an endpoint.
func (r *Registrar) epoch(e Endpoint) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.owned[spot{e.Network, e.Addr4}].Epoch, 1)
}

// Owner implements [peering.Owners].
func (r *Registrar) Owner(ctx context.Context, network string, a netip.Addr) (peering.Owner, error) {
	e, err := r.cache.Lookup(ctx, network, a)
	if errors.Is(err, directory.ErrNotFound) {
		return peering.Owner{}, fmt.Errorf("%w: %w", slowpath.ErrNobody, err)
	}
	return peering.Owner{Host: e.Owner, Epoch: e.Epoch}, err
}

// run keeps the records until ctx ends.
func (r *Registrar) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var session *directory.Session
	done := sync.OnceFunc(func() { close(r.ready) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		case <-timer.C:
		}
		timer.Reset(again)
		err := error(nil)
		if session == nil {
			session, err = r.begin(ctx)
		}
		if err == nil {
			err = r.sync(ctx, session)
		}
		if err == nil {
			done()
		}
		if errors.Is(err, directory.ErrDisplaced) {
			r.log.ErrorContext(ctx, "this host writes nothing into the directory any more", slog.Any("error", err))
			return
		}
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "the directory does not know all endpoints of this host yet", slog.Any("error", err))
		}
	}
}

// begin begins the session of this host, and takes up what it owned before.
func (r *Registrar) begin(ctx context.Context) (*directory.Session, error) {
	s, err := r.directory.Begin(ctx, r.self, r.key, time.Now())
	if err != nil {
		return nil, err
	}
	all, err := r.directory.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range all {
		if e.Owner == r.self {
			r.owned[spot{e.Network, e.Addr}] = e
		}
	}
	return s, nil
}

// sync makes the records as the VEM's endpoints are.
func (r *Registrar) sync(ctx context.Context, s *directory.Session) error {
	present := r.local.Present()
	networks := map[string]bool{defaultNetwork: true}
	for _, e := range present {
		networks[e.Network] = true
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		errs = append(errs, r.prepare(ctx, s, name))
	}
	claims, releases := r.differences(present)
	for i, o := range s.Release(ctx, releases) {
		if o.Err == nil {
			r.mu.Lock()
			delete(r.owned, spot{releases[i].Network, releases[i].Addr})
			r.mu.Unlock()
		}
		errs = append(errs, o.Err)
	}
	// After the releases: another app may have an address, or a name, that one had which is gone.
	for _, o := range s.Claim(ctx, claims) {
		errs = append(errs, r.claimed(ctx, o))
	}
	return errors.Join(errs...)
}

const defaultNetwork = "default"

// prepare enters a network into the directory, and sees to it that this host has addresses of it
// to give out.
func (r *Registrar) prepare(ctx context.Context, s *directory.Session, name string) error {
	space, err := r.local.Space(name)
	if err != nil {
		return err
	}
	n, err := s.PutNetwork(ctx, name, space, time.Now())
	if err != nil {
		return err
	}
	blocks, err := r.directory.Blocks(ctx, r.self)
	if err != nil {
		return err
	}
	used := func(a netip.Addr) bool {
		_, ok := r.local.Find(name, a)
		return ok
	}
	if blocks.Low(n, used) {
		b, err := s.LeaseBlock(ctx, name, time.Now())
		if err != nil {
			return err
		}
		blocks = blocks.With(b)
	}
	var list []netip.Prefix
	for _, b := range blocks {
		if b.Network == name {
			list = append(list, b.Prefix)
		}
	}
	return r.ranges.set(name, list)
}

// differences are the records that are missing, and those that are there in vain.
func (r *Registrar) differences(present []Endpoint) (claims, releases []directory.Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	here := make(map[spot]bool)
	for _, e := range present {
		at := spot{e.Network, e.Addr4}
		if now, ok := r.owned[at]; ok && now.App == e.App {
			here[at] = true
			continue
		}
		claims = append(claims, directory.Endpoint{Network: e.Network, Addr: e.Addr4, ID: rand.Text(), App: e.App, State: directory.Running})
	}
	for at, e := range r.owned {
		if !here[at] {
			releases = append(releases, e)
		}
	}
	return claims, releases
}

// claimed notes what became of a claim. An endpoint that another host has stays as it is on this
// host: only others don't reach it.
func (r *Registrar) claimed(ctx context.Context, o directory.Outcome) error {
	at := spot{o.Endpoint.Network, o.Endpoint.Addr}
	taken, isTaken := errors.AsType[*directory.TakenError](o.Err)
	named, isNamed := errors.AsType[*directory.NameError](o.Err)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case o.Err == nil:
		r.owned[at] = o.Endpoint
		delete(r.failed, at)
		return nil
	case isTaken:
		at = spot{taken.There.Network, taken.There.Addr}
	case isNamed:
		at = spot{named.App, netip.Addr{}}
	default:
		return o.Err
	}
	if text := o.Err.Error(); r.failed[at] != text {
		r.failed[at] = text
		r.log.ErrorContext(ctx, "other hosts can't reach an app of this host", slog.Any("error", o.Err))
	}
	return nil
}
