package trust

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How often hosts may ask to join: a person who mistypes is not hindered, and nobody guesses a
// secret of 160 bits at that rate.
const (
	sourceEvery = 2 * time.Second // from one source address, on average
	sourceBurst = 10
	allEvery    = 50 * time.Millisecond // over all sources
	allBurst    = 100
	// maxSources is how many source addresses are remembered. If there are more, the one that
	// has not asked for the longest time is forgotten.
	maxSources = 1024
)

// limits bounds how often something is tried, by source address and over all.
type limits struct {
	mu      sync.Mutex
	all     *rate.Limiter
	sources map[netip.Prefix]*source
}

type source struct {
	limiter *rate.Limiter
	last    time.Time
}

func newLimits() *limits {
	return &limits{
		all:     rate.NewLimiter(rate.Every(allEvery), allBurst),
		sources: make(map[netip.Prefix]*source),
	}
}

// try takes one try from a source, and returns 0, or how long the source has to wait. A refused
// try takes nothing from what all sources share.
func (l *limits) try(from netip.Addr, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.source(network(from), now).limiter.ReserveN(now, 1)
	if wait := own.DelayFrom(now); wait > 0 {
		own.CancelAt(now)
		return wait
	}
	all := l.all.ReserveN(now, 1)
	if wait := all.DelayFrom(now); wait > 0 {
		all.CancelAt(now)
		own.CancelAt(now)
		return wait
	}
	return 0
}

// source finds or makes what is remembered of a source. l.mu is held.
func (l *limits) source(from netip.Prefix, now time.Time) *source {
	s, ok := l.sources[from]
	if !ok {
		if len(l.sources) >= maxSources {
			l.forget()
		}
		s = &source{limiter: rate.NewLimiter(rate.Every(sourceEvery), sourceBurst)}
		l.sources[from] = s
	}
	s.last = now
	return s
}

// forget forgets the source that has not asked for the longest time. l.mu is held.
func (l *limits) forget() {
	var oldest netip.Prefix
	for p, s := range l.sources {
		if o, ok := l.sources[oldest]; !ok || s.last.Before(o.last) {
			oldest = p
		}
	}
	delete(l.sources, oldest)
}

// network returns what one machine has for itself: an IPv4 address, or the /64 of an IPv6
// address (RFC 4291, section 2.5.1). An address that is not valid gives the zero Prefix.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked()
	}
	return netip.PrefixFrom(a, a.BitLen())
}
