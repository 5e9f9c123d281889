// Package cache has what one host knows of the directory, for answers that wait for nobody and
// that are there while the directory can't be reached.
package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
)

// Options say whom a cache tells what, and how often it does what.
type Options struct {
	// Endpoint is called when an endpoint has changed, by before and after: nil for one that was
	// not there, or is not any more. Host is the same for hosts. Seen is called when a host is
	// seen alive, or not any more. Each may be nil. They are called one after the other, with no
	// lock held, and hold up the cache until they return.
	Endpoint func(before, after *directory.Endpoint)
	Host     func(before, after *directory.Host)
	Seen     func(host string, alive bool)
	// Retry is how long the cache waits at first before it lists again, after the directory could not
	// be read. Zero: a second. It waits longer each time, by chance: where many hosts begin at once
	// they do not do so again and again.
	Retry time.Duration
	// Probe is how often the cache makes sure that the directory is there, and is the one that
	// this host has seen. Zero: 5 seconds.
	Probe time.Duration
}

// Cache is all of the directory, from a list and a watch that goes on from there. It takes as
// much memory as there are records.
type Cache struct {
	d   *directory.Directory
	opt Options

	mu      sync.Mutex
	records map[id]directory.Record
	apps    map[string]id // of their endpoints
	state   Freshness
	proof   proof
}

// id says which record it is.
type id struct {
	kind directory.Kind
	name string
}

func idOf(r directory.Record) id { return id{r.Kind, r.Name} }

// Freshness tells how old what a cache knows may be.
type Freshness struct {
	// At is when the cache had all that the directory had; zero: it never had. Where others
	// change the store as well, as in an etcd that has other users, that is known only of the
	// last list.
	At       time.Time
	Revision int64 // of the last change that the cache knows
	// Err is why the directory can't be read now: it wraps [directory.ErrUnavailable], or is a
	// [*directory.LostError]. Nil: it can.
	Err error
}

// proof is a revision that the directory had at a time: when the cache has it, it had all of it
// at that time.
type proof struct {
	revision int64
	at       time.Time
}

// New returns a cache that knows nothing until Run is called.
func New(d *directory.Directory, opt Options) *Cache {
	opt.Retry = cmp.Or(opt.Retry, time.Second)
	opt.Probe = cmp.Or(opt.Probe, 5*time.Second)
	return &Cache{
		d: d, opt: opt,
		records: make(map[id]directory.Record), apps: make(map[string]id),
		state: Freshness{Err: directory.ErrUnavailable},
	}
}

// Run follows the directory until ctx ends, and returns its error. Whatever happens to the
// directory, the cache keeps what it knows.
func (c *Cache) Run(ctx context.Context) error {
	wait := c.opt.Retry
	for {
		before := c.Freshness().At
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, directory.ErrCompacted) {
			continue
		}
		c.fail(err)
		if c.Freshness().At != before { // the directory was read meanwhile
			wait = c.opt.Retry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, longest*c.opt.Retry)
	}
}

// longest is how many times as long as at first the cache waits at most.
const longest = 8

// follow lists the directory and goes on from there, until something is wrong with it.
func (c *Cache) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start := time.Now()
	list, rev, next, err := c.d.Follow(ctx)
	if err != nil {
		return err
	}
	c.replace(list, proof{rev, start})
	var probing sync.WaitGroup
	defer probing.Wait()
	defer cancel(nil)
	probing.Go(func() { cancel(c.probe(ctx)) })
	for {
		changes, err := next()
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			return err
		}
		c.apply(changes)
	}
}

// probe makes sure from time to time that the directory is there, until it is found to be
// another one.
func (c *Cache) probe(ctx context.Context) error {
	tick := time.NewTicker(c.opt.Probe)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		start := time.Now()
		rev, err := c.d.Check(ctx)
		switch {
		case err == nil:
			c.proved(proof{rev, start})
		case errors.Is(err, directory.ErrUnavailable):
			c.fail(err)
		default:
			return err
		}
	}
}

func (c *Cache) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Err = err
}

func (c *Cache) proved(p proof) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Err = nil
	c.proof = p
	c.advance(c.state.Revision)
}

// advance notes that the cache has all changes up to a revision. The caller has c.mu.
func (c *Cache) advance(rev int64) {
	c.state.Revision = max(c.state.Revision, rev)
	if c.state.Revision >= c.proof.revision && c.proof.at.After(c.state.At) {
		c.state.At = c.proof.at
	}
}

// replace makes a list all that the cache knows, and tells what is different: so a change that
// was made while nobody watched is told as well, but for what came and went.
func (c *Cache) replace(list []directory.Record, p proof) {
	var tell []func()
	c.mu.Lock()
	there := make(map[id]bool, len(list))
	for _, r := range list {
		there[idOf(r)] = true
	}
	for at, r := range c.records {
		if !there[at] {
			tell = append(tell, c.enter(directory.Record{Kind: r.Kind, Name: r.Name, Revision: p.revision, Deleted: true}))
		}
	}
	for _, r := range list {
		if c.records[idOf(r)].Revision != r.Revision {
			tell = append(tell, c.enter(r))
		}
	}
	c.proof, c.state.Err = p, nil
	c.advance(p.revision)
	c.mu.Unlock()
	call(tell)
}

// apply enters changes of one revision, and tells them.
func (c *Cache) apply(changes []directory.Record) {
	var tell []func()
	c.mu.Lock()
	for _, r := range changes {
		tell = append(tell, c.enter(r))
		c.advance(r.Revision)
	}
	c.mu.Unlock()
	call(tell)
}

func call(tell []func()) {
	for _, t := range tell {
		if t != nil {
			t()
		}
	}
}

// enter enters a change, and returns what tells it, nil if nobody is to be told. The caller has
// c.mu.
func (c *Cache) enter(r directory.Record) (tell func()) {
	at := idOf(r)
	old, was := c.records[at]
	if e, ok := old.Value.(*directory.Endpoint); ok && c.apps[e.App] == at {
		delete(c.apps, e.App)
	}
	if r.Deleted {
		delete(c.records, at)
	} else {
		c.records[at] = r
	}
	if e, ok := r.Value.(*directory.Endpoint); ok {
		c.apps[e.App] = at
	}
	switch {
	case !r.Deleted && r.Value == nil && r.Kind != directory.KindSeen: // of a newer version: whoever needs it asks
		return nil
	case r.Kind == directory.KindEndpoint && c.opt.Endpoint != nil:
		return differ(old.Value, r.Value, c.opt.Endpoint)
	case r.Kind == directory.KindHost && c.opt.Host != nil:
		return differ(old.Value, r.Value, c.opt.Host)
	case r.Kind == directory.KindSeen && c.opt.Seen != nil && was == r.Deleted:
		return func() { c.opt.Seen(r.Name, !r.Deleted) }
	}
	return nil
}

func differ[T any](before, after any, tell func(before, after *T)) func() {
	b, _ := before.(*T)
	a, _ := after.(*T)
	if a == nil && b == nil {
		return nil
	}
	return func() { tell(clone(b), clone(a)) }
}

// clone returns a copy that the receiver may change.
func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// Freshness tells how old what the cache knows may be.
func (c *Cache) Freshness() Freshness {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// known returns a record that the cache has.
func known[T any](c *Cache, at id) (r T, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.records[at].Value.(*T)
	if ok {
		r = *p
	}
	return r, ok
}

// all returns all records of a type, in the order of their names.
func all[T any](c *Cache) []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	byName := make(map[string]T)
	var names []string
	for at, r := range c.records {
		if p, ok := r.Value.(*T); ok {
			names, byName[at.name] = append(names, at.name), *p
		}
	}
	slices.Sort(names)
	var list []T
	for _, name := range names {
		list = append(list, byName[name])
	}
	return list
}

// Lookup returns the endpoint that has an address of a network, of either family. What the cache
// knows is answered at once; the endpoint may have another owner by now, which this one tells
// whoever asks it. That nobody has an address is never said from memory: if the cache does not
// know it, the directory is asked, see [directory.Directory.Lookup].
func (c *Cache) Lookup(ctx context.Context, network string, a netip.Addr) (directory.Endpoint, error) {
	if e, ok := c.Known(network, a); ok {
		return e, nil
	}
	return c.d.Lookup(ctx, network, a)
}

// Known returns the endpoint that has an address of a network, of either family, if the cache knows
// it. Nobody is asked.
func (c *Cache) Known(network string, a netip.Addr) (directory.Endpoint, bool) {
	n, ok := known[directory.Network](c, id{directory.KindNetwork, network})
	if !ok {
		return directory.Endpoint{}, false
	}
	a4, ok := n.IPv4(a)
	if !ok {
		return directory.Endpoint{}, false
	}
	return known[directory.Endpoint](c, id{directory.KindEndpoint, network + "/" + a4.String()})
}

// LookupApp returns the endpoint of an app, like Lookup.
func (c *Cache) LookupApp(ctx context.Context, app string) (directory.Endpoint, error) {
	if e, ok := c.endpointOf(app); ok {
		return e, nil
	}
	return c.d.LookupApp(ctx, app)
}

func (c *Cache) endpointOf(app string) (e directory.Endpoint, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.records[c.apps[app]].Value.(*directory.Endpoint)
	if ok {
		e = *p
	}
	return e, ok
}

// Host returns a host that the cache knows, or a [*directory.HostError].
func (c *Cache) Host(host string) (directory.Host, error) {
	h, ok := known[directory.Host](c, id{directory.KindHost, host})
	if !ok {
		return h, &directory.HostError{Name: host, Why: directory.HostUnknown}
	}
	return h, nil
}

// Network returns a network that the cache knows, or an error wrapping [directory.ErrNotFound].
func (c *Cache) Network(network string) (directory.Network, error) {
	n, ok := known[directory.Network](c, id{directory.KindNetwork, network})
	if !ok {
		return n, fmt.Errorf("look up network %s: %w", network, directory.ErrNotFound)
	}
	return n, nil
}

// Seen tells whether a host is seen alive, by what the cache knows.
func (c *Cache) Seen(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.records[id{directory.KindSeen, host}]
	return ok
}

// Hosts returns all hosts that the cache knows, in the order of names.
func (c *Cache) Hosts() []directory.Host { return all[directory.Host](c) }

// Networks returns all networks that the cache knows, in the order of names.
func (c *Cache) Networks() []directory.Network { return all[directory.Network](c) }

// Endpoints returns all endpoints that the cache knows.
func (c *Cache) Endpoints() []directory.Endpoint { return all[directory.Endpoint](c) }

// Blocks returns all blocks that the cache knows.
func (c *Cache) Blocks() directory.Blocks { return all[directory.Block](c) }
