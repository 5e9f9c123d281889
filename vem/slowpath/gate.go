package slowpath

import (
	"context"
	"io/fs"
	"net/netip"
	"time"
)

// gate holds the packets of a destination, whatever its state is, and returns when none of them
// can be on its way to the kernel any more. If ctx ends before, the destination is not gated.
func (q *queues) gate(ctx context.Context, a netip.Addr) error {
	q.mu.Lock()
	if q.ending != open {
		q.mu.Unlock()
		return fs.ErrClosed
	}
	d := q.destinations[a]
	if d == nil {
		d = q.add(a, Gated)
	}
	if d.state != Gated {
		d.state = Gated
		q.acquit(d)
		if d.interrupt != nil {
			d.interrupt()
		}
		d.poke()
	}
	if !d.busy() {
		q.mu.Unlock()
		return nil
	}
	if d.quiet == nil {
		d.quiet = make(chan struct{})
	}
	quiet := d.quiet
	q.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		q.release(a)
		return ctx.Err()
	}
}

// release lets a gated destination be asked for, or go if nothing waits for it.
func (q *queues) release(a netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.destinations[a]
	if d == nil || d.state != Gated {
		return
	}
	if len(d.waiting) == 0 {
		q.drop(d)
	} else {
		d.state = Asking
		d.since = time.Now()
		d.first = d.waiting[0].from.address
	}
	d.poke()
}

// forget makes the next packet of a destination begin a look-up, and one that waits to be tried
// again try at once.
func (q *queues) forget(a netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.destinations[a]
	if d == nil || d.state == Gated {
		return
	}
	if d.interrupt != nil {
		d.stale = true // its goroutine takes care of it
	} else if d.state != Asking {
		q.drop(d)
	}
	d.poke()
}

// close makes all destinations' goroutines end as it says, once their context has ended.
func (q *queues) close(how ending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ending = how
}
