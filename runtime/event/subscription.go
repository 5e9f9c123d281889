package event

import (
	"context"
	"time"
)

// DefaultQueue is how many events wait for a subscriber that has not chosen another
// number.
const DefaultQueue = 1024

// Options say what a subscriber wants.
type Options struct {
	Filter Filter
	// Recent begins with the recent events, without a gap or a repetition before the
	// new ones.
	Recent bool
	// Queue is how many new events may wait for the subscriber, before it misses some;
	// 0: DefaultQueue.
	Queue int
}

// Subscription is one listener of a bus. One goroutine calls Next; Close may be called
// by another one.
type Subscription struct {
	bus    *Bus
	filter Filter
	most   int

	batch []Event       // taken out of waiting; only Next uses it
	ready chan struct{} // holds a token when there may be something to take

	// The bus's mu guards these.
	waiting []Event
	missed  uint64 // events after those that wait
	closed  bool
}

// Subscribe makes a subscription. The caller closes it.
func (b *Bus) Subscribe(o Options) *Subscription {
	s := &Subscription{bus: b, filter: o.Filter, most: o.Queue, ready: make(chan struct{}, 1)}
	if s.most <= 0 {
		s.most = DefaultQueue
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.Recent {
		s.batch = b.choose(&s.filter)
	}
	b.subscribers[s] = struct{}{}
	return s
}

// put hands an event over, or counts it as missed. Once one is missed, so are all others
// until the subscriber has taken what waits: so it gets them in order, and is told where
// the gap is. The caller holds the bus's mu.
func (s *Subscription) put(e *Event) {
	if s.missed > 0 || len(s.waiting) >= s.most {
		s.missed++
	} else {
		s.waiting = append(s.waiting, *e)
	}
	s.signal()
}

func (s *Subscription) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next waits for the next event. It returns false when ctx has ended, or when the
// subscription is closed and all events that came before have been returned.
func (s *Subscription) Next(ctx context.Context) (Event, bool) {
	for len(s.batch) == 0 {
		if s.take() {
			continue
		}
		if s.isClosed() {
			return Event{}, false
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Event{}, false
		}
	}
	if ctx.Err() != nil {
		return Event{}, false
	}
	e := s.batch[0]
	s.batch[0] = Event{} // what it refers to may go
	s.batch = s.batch[1:]
	return e, true
}

// take takes all that waits, and tells whether there was anything.
func (s *Subscription) take() bool {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.batch, s.waiting = s.waiting, nil
	if s.missed > 0 {
		s.batch = append(s.batch, Event{Type: Missed, At: time.Now(), Missed: s.missed})
		s.missed = 0
	}
	return len(s.batch) > 0
}

func (s *Subscription) isClosed() bool {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.closed && len(s.waiting) == 0 && s.missed == 0
}

// Close ends the subscription: Next returns what waits, and then false. It can be
// repeated.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	delete(s.bus.subscribers, s)
	s.closed = true
	s.signal()
}

// Listen calls fn for each event of a new subscription, one after the other, until stop is
// called or ctx ends. stop waits until fn has had all events that came before; it is
// called once.
func (b *Bus) Listen(ctx context.Context, o Options, fn func(e Event)) (stop func()) {
	s := b.Subscribe(o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			e, ok := s.Next(ctx)
			if !ok {
				return
			}
			fn(e)
		}
	}()
	return func() {
		s.Close()
		<-done
	}
}
