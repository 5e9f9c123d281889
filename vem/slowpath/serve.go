package slowpath

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/pause"
)

const (
	// linger is how long a destination that has a way is remembered. What was underway when the
	// way was opened arrives within that time; what comes later makes a new look-up.
	linger = 100 * time.Millisecond
	// openLimit bounds Way.Prepare and Way.Open together.
	openLimit = 10 * time.Second
	// Pauses between look-ups of one destination that failed.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

var (
	errNoWay = errors.New("the resolver returned neither a way nor an error")
	errGated = errors.New("the destination was gated")
)

// serve does what a destination's state asks for, until it is gone or ctx ends.
func (q *queues) serve(ctx context.Context, d *destination) {
	defer q.end(d)
	again := firstPause
	for ctx.Err() == nil {
		switch q.stateOf(d) {
		case Asking:
			if q.ask(ctx, d) {
				pause.For(ctx, again, d.wake)
				again = min(2*again, lastPause)
			}
		case Passing:
			pause.For(ctx, linger, d.wake)
			q.finish(d, Passing)
		case Absent:
			pause.For(ctx, q.limits.Remember, d.wake)
			q.finish(d, Absent)
		case Gated:
			again = firstPause
			select {
			case <-d.wake:
			case <-ctx.Done():
			}
		case gone:
			return
		}
	}
}

func (q *queues) stateOf(d *destination) State {
	q.mu.Lock()
	defer q.mu.Unlock()
	return d.state
}

// ask looks for a way, and lets all that waits take it. It returns true if it is to be tried
// again after a pause.
func (q *queues) ask(ctx context.Context, d *destination) (again bool) {
	step, query, ok := q.begin(ctx, d)
	if !ok {
		return false
	}
	defer q.done(d)
	err := q.bring(step, d, query)
	switch {
	case ctx.Err() != nil || q.stateOf(d) != Asking:
		return false // ended, gated, or there is a way
	case errors.Is(err, ErrNobody):
		return q.absent(d)
	case errors.Is(err, ErrStray):
		q.count.drop(Barred, len(q.bar(d, query.Source)))
		return false
	case errors.Is(err, ErrSource):
		q.turnAway(q.bar(d, query.Source), Barred)
		return false
	}
	q.count.failures.Add(1)
	if !time.Now().Before(q.deadline(d)) {
		q.expire(ctx, d, err)
		return false
	}
	return true
}

// begin marks the destination as busy until done. The context ends then, or when the destination
// is gated.
func (q *queues) begin(ctx context.Context, d *destination) (step context.Context, query Query, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.state != Asking {
		return nil, Query{}, false
	}
	step, d.interrupt = context.WithCancel(ctx)
	d.stale = false
	return step, Query{q.network, d.first, d.address}, true
}

// done ends what begin began.
func (q *queues) done(d *destination) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d.interrupt()
	d.interrupt = nil
	d.settle()
	if d.stale && d.state == Passing {
		q.drop(d)
	}
}

// deadline is when the patience for a destination's first packet ends.
func (q *queues) deadline(d *destination) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return d.since.Add(q.limits.Patience)
}

// bring finds a way and opens it. When it returns an error the destination has none.
func (q *queues) bring(ctx context.Context, d *destination, query Query) error {
	asking, cancel := context.WithDeadline(ctx, q.deadline(d))
	defer cancel()
	free, err := q.slot(asking, d)
	if err != nil {
		return err
	}
	defer free()
	q.count.lookups.Add(1)
	way, err := q.resolver.Resolve(asking, query)
	switch {
	case err != nil:
		return err
	case way == nil:
		return errNoWay
	}
	opening, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	if err := way.Prepare(opening); err != nil {
		return err
	}
	if !q.pass(d) {
		return errGated
	}
	if err := way.Open(opening); err != nil && ctx.Err() == nil {
		// The packets go on taking the prepared way, and after a while there is a new look-up.
		q.count.failures.Add(1)
		q.log.WarnContext(ctx, "way not opened", slog.String("network", q.network),
			slog.String("destination", d.address.String()), slog.Any("error", err))
	}
	return nil
}

// slot waits for its turn to ask the resolver: those of one source wait for each other first, so
// that they do not take all slots.
func (q *queues) slot(ctx context.Context, d *destination) (free func(), err error) {
	q.mu.Lock()
	s := d.starter
	q.mu.Unlock()
	if s != nil {
		if err := s.lookups.Acquire(ctx, 1); err != nil {
			return nil, err
		}
	}
	if err := q.slots.Acquire(ctx, 1); err != nil {
		if s != nil {
			s.lookups.Release(1)
		}
		return nil, err
	}
	return func() {
		q.slots.Release(1)
		if s != nil {
			s.lookups.Release(1)
		}
	}, nil
}

// pass lets all that waits out, and what comes from now on at once. It returns false if the
// destination was gated before or meanwhile.
func (q *queues) pass(d *destination) bool {
	q.mu.Lock()
	ok := d.state == Asking
	if ok {
		d.state = Passing
		d.writing = true
		q.acquit(d)
	}
	q.mu.Unlock()
	if ok {
		q.flush(d)
	}
	return ok && q.stateOf(d) == Passing
}

// absent notes that nobody has the address, and tells all whose packets wait. It returns true if
// the answer may be old: the destination was forgotten while the look-up was underway.
func (q *queues) absent(d *destination) (again bool) {
	q.mu.Lock()
	if d.state != Asking || d.stale {
		again = d.state == Asking
		q.mu.Unlock()
		return again
	}
	d.state = Absent
	list := q.take(d, len(d.waiting))
	q.mu.Unlock()
	q.turnAway(list, Nobody)
	return false
}

// bar takes out what waits from a source, and lets it be asked for the next one's.
func (q *queues) bar(d *destination, from netip.Addr) (barred []frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.state != Asking {
		return nil
	}
	var rest []frame
	for _, f := range d.waiting {
		if f.from.address == from {
			barred = append(barred, f)
			q.uncount(d, f)
		} else {
			rest = append(rest, f)
		}
	}
	d.waiting = rest
	q.acquit(d)
	if len(rest) == 0 {
		q.drop(d)
	} else {
		d.first, d.starter = rest[0].from.address, rest[0].from
		d.starter.destinations++
	}
	return barred
}

// expire gives up.
func (q *queues) expire(ctx context.Context, d *destination, cause error) {
	q.mu.Lock()
	if d.state != Asking {
		q.mu.Unlock()
		return
	}
	q.drop(d)
	list := q.take(d, len(d.waiting))
	q.mu.Unlock()
	q.turnAway(list, Expired)
	q.log.WarnContext(ctx, "no way found in time", slog.String("network", q.network),
		slog.String("destination", d.address.String()), slog.Int("packets", len(list)), slog.Any("error", cause))
}

func (q *queues) turnAway(list []frame, why Reason) {
	for _, f := range list {
		q.refuse(f.raw)
	}
	q.count.drop(why, len(list))
}

// finish drops a destination that is still in a state, unless its packets are being written.
func (q *queues) finish(d *destination, s State) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.state == s && !d.busy() {
		q.drop(d)
	}
}

// drop takes a destination out. Who holds the lock takes care of what waits.
func (q *queues) drop(d *destination) {
	d.state = gone
	q.acquit(d)
	if q.destinations[d.address] == d {
		delete(q.destinations, d.address)
	}
}

// end is the last thing that a destination's goroutine does.
func (q *queues) end(d *destination) {
	q.mu.Lock()
	how := q.ending
	q.drop(d)
	var list []frame
	if !d.writing { // else the writer goes on until nothing waits
		list = q.take(d, len(d.waiting))
	}
	d.settle()
	q.mu.Unlock()
	if how != leaving {
		q.count.drop(Closed, len(list))
		return
	}
	for _, f := range list {
		q.write(f.raw)
	}
}
