package event

import (
	"sync"
	"time"
)

// Kept is how many of the most recent events a bus keeps. Steps are not among them: the
// end of an operation tells how long each took.
const Kept = 1000

// Counter is told each event at once, in the goroutine that emits it. It may be called
// by several at a time, and must not wait for anything.
type Counter interface{ Count(e *Event) }

// Bus is the source of events. Its methods may be called at the same time.
type Bus struct {
	counter Counter // may be nil

	mu          sync.Mutex // guards what follows, and what subscriptions and operations say it guards
	last        uint64     // number of the newest event
	recent      []Event    // the newest ones but for steps; from next on when it is full
	next        int
	subscribers map[*Subscription]struct{}
}

// NewBus makes a bus. The counter may be nil.
func NewBus(counter Counter) *Bus {
	return &Bus{counter: counter, subscribers: make(map[*Subscription]struct{})}
}

// Emit tells everybody that something happened now.
func (b *Bus) Emit(t Type, about About) {
	e := Event{Type: t, About: about, At: time.Now()}
	b.mu.Lock()
	b.emit(&e)
	b.mu.Unlock()
	b.count(&e)
}

// count calls the counter. The caller does not hold b.mu: that is somebody else's code.
func (b *Bus) count(e *Event) {
	if b.counter != nil {
		b.counter.Count(e)
	}
}

// emit numbers an event and hands it out. The caller holds b.mu, and calls count when it
// has given it back.
func (b *Bus) emit(e *Event) {
	b.last++
	e.Number = b.last
	if e.Type == Begun {
		e.Operation = ID(e.Number)
	}
	if e.Type != Step {
		b.keep(e)
	}
	for s := range b.subscribers {
		if s.filter.Chooses(e) {
			s.put(e)
		}
	}
}

// keep makes an event one of the recent ones. The caller holds b.mu.
func (b *Bus) keep(e *Event) {
	if len(b.recent) < Kept {
		b.recent = append(b.recent, *e)
		return
	}
	b.recent[b.next] = *e
	b.next = (b.next + 1) % Kept
}

// Recent returns those of the recent events that the filter chooses, oldest first.
func (b *Bus) Recent(f Filter) []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.choose(&f)
}

// choose is Recent. The caller holds b.mu.
func (b *Bus) choose(f *Filter) []Event {
	var some []Event
	for i := range b.recent {
		if e := &b.recent[(b.next+i)%len(b.recent)]; f.Chooses(e) {
			some = append(some, *e)
		}
	}
	return some
}
