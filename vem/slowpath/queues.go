package slowpath

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// batch is how many frames are written without a look at the state.
const batch = 64

// queues are the packets that wait, by their destinations. It knows nothing of the device.
//
// One goroutine calls arrive. The other methods may be called at the same time. The lock is
// never held while a frame is written, a packet is answered or the resolver works.
type queues struct {
	network  string
	limits   Limits
	resolver Resolver
	log      *slog.Logger
	put      func(frame []byte) error // gives a frame to the kernel
	refuse   func(frame []byte)       // tells the sender of a packet that there is no way
	start    func(*destination)       // starts serve
	slots    *semaphore.Weighted      // for look-ups
	count    counters

	mu           sync.Mutex
	destinations map[netip.Addr]*destination
	sources      map[netip.Addr]*source
	bytes        int
	ending       ending
}

// ending says what becomes of packets that wait when their destinations' goroutines end.
type ending int

const (
	open     ending = iota
	dropping        // they are dropped
	leaving         // they are written back
)

// newQueues returns queues that are served until ctx ends.
func newQueues(ctx context.Context, o Options, put func([]byte) error, refuse func([]byte)) (q *queues, wait func()) {
	var served sync.WaitGroup
	q = &queues{
		network: o.Network, limits: o.Limits, resolver: o.Resolver, log: o.Log, put: put, refuse: refuse,
		slots:        semaphore.NewWeighted(int64(o.Limits.Lookups)),
		destinations: map[netip.Addr]*destination{},
		sources:      map[netip.Addr]*source{},
	}
	q.start = func(d *destination) { served.Go(func() { q.serve(ctx, d) }) }
	return q, served.Wait
}

// arrive takes in a packet, whose frame is ready to be written. The frame stays the caller's.
func (q *queues) arrive(p packet, raw []byte) {
	q.mu.Lock()
	d, why := q.find(p, len(raw)+frameCost)
	through, absent := false, false
	if why == kept {
		switch {
		case d.state == Absent:
			absent = true
		case d.state == Passing && !d.writing:
			through, d.writing = true, true
		default:
			q.keep(d, p.source, raw)
		}
	}
	q.mu.Unlock()
	switch {
	case absent:
		q.count.negative.Add(1)
		q.count.drop(Nobody, 1)
		q.refuse(raw)
	case through:
		q.write(raw)
		q.flush(d)
	case why != kept:
		q.count.drop(why, 1)
	}
}

// find returns the destination of a packet of this cost, which may be a new one, or why the
// packet can't wait for it.
func (q *queues) find(p packet, cost int) (*destination, Reason) {
	d := q.destinations[p.target]
	s := q.sources[p.source]
	switch {
	case q.ending != open:
		return nil, Closed
	case d != nil && (d.state == Absent || d.state == Passing && !d.writing):
		return d, kept // it does not wait
	case d != nil && d.bytes+cost > q.limits.DestinationBytes:
		return nil, DestinationFull
	case s != nil && s.bytes+cost > q.limits.SourceBytes:
		return nil, SourceFull
	case q.bytes+cost > q.limits.Bytes:
		return nil, Full
	case d != nil:
		return d, kept
	case s != nil && s.destinations >= q.limits.SourceDestinations:
		return nil, Scan
	case len(q.destinations) >= q.limits.Destinations:
		return nil, TooMany
	}
	d = q.add(p.target, Asking)
	d.first, d.starter = p.source, q.source(p.source)
	d.starter.destinations++
	return d, kept
}

// add makes a destination.
func (q *queues) add(a netip.Addr, s State) *destination {
	d := &destination{address: a, state: s, since: time.Now(), wake: make(chan struct{}, 1)}
	q.destinations[a] = d
	q.start(d)
	return d
}

func (q *queues) source(a netip.Addr) *source {
	s := q.sources[a]
	if s == nil {
		s = &source{address: a, lookups: semaphore.NewWeighted(int64(q.limits.SourceLookups))}
		q.sources[a] = s
	}
	return s
}

// keep copies a frame to the end of a queue.
func (q *queues) keep(d *destination, from netip.Addr, raw []byte) {
	f := frame{bytes.Clone(raw), q.source(from)}
	d.waiting = append(d.waiting, f)
	d.bytes += f.cost()
	f.from.bytes += f.cost()
	q.bytes += f.cost()
}

// take removes the first n waiting frames of a destination.
func (q *queues) take(d *destination, n int) []frame {
	list := d.take(n)
	for _, f := range list {
		q.uncount(d, f)
	}
	return list
}

// uncount takes a frame that does not wait any more out of the sums.
func (q *queues) uncount(d *destination, f frame) {
	d.bytes -= f.cost()
	f.from.bytes -= f.cost()
	q.bytes -= f.cost()
	q.forgetSource(f.from)
}

// acquit ends that a destination counts for the source that began it.
func (q *queues) acquit(d *destination) {
	if d.starter != nil {
		d.starter.destinations--
		q.forgetSource(d.starter)
		d.starter = nil
	}
}

func (q *queues) forgetSource(s *source) {
	if s.bytes == 0 && s.destinations == 0 {
		delete(q.sources, s.address)
	}
}

// flush writes what waits for a destination whose writing was set for it, until nothing does.
func (q *queues) flush(d *destination) {
	for {
		q.mu.Lock()
		if d.state != Passing && d.state != gone || len(d.waiting) == 0 {
			d.writing = false
			d.settle()
			q.mu.Unlock()
			return
		}
		list := q.take(d, batch)
		q.mu.Unlock()
		for _, f := range list {
			q.write(f.raw)
		}
	}
}

func (q *queues) write(raw []byte) {
	if err := q.put(raw); err != nil {
		q.count.drop(Refused, 1)
		return
	}
	q.count.delivered.Add(1)
}
