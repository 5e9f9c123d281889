package event

import "time"

// Operation is something that takes time and has steps. Its methods may be called at
// the same time; the steps of one operation follow one another, so that each ends when
// the next one begins.
type Operation struct {
	bus *Bus
	id  ID

	// The bus's mu guards these.
	event Event // as it began
	ended bool
	step  string // that it is at; "" if it is at none
	since time.Time
	took  map[string]time.Duration
}

// Begin tells that an operation begins. The caller ends it by End.
func (b *Bus) Begin(kind Kind, about About) *Operation {
	e := Event{Type: Begun, Kind: kind, About: about, At: time.Now()}
	b.mu.Lock()
	b.emit(&e)
	b.mu.Unlock()
	b.count(&e)
	return &Operation{bus: b, id: e.Operation, event: e, took: make(map[string]time.Duration)}
}

// ID names the operation.
func (o *Operation) ID() ID { return o.id }

// Step tells that the operation comes to its next step, which ends the one before.
func (o *Operation) Step(name string) {
	now := time.Now()
	o.bus.mu.Lock()
	o.endStep(now)
	o.step, o.since = name, now
	e := o.event
	e.Type, e.Step, e.At = Step, name, now
	o.bus.emit(&e)
	o.bus.mu.Unlock()
	o.bus.count(&e)
}

// EndStep ends a step: the time until the next one begins is no step's.
func (o *Operation) EndStep() {
	o.bus.mu.Lock()
	defer o.bus.mu.Unlock()
	o.endStep(time.Now())
}

// endStep is EndStep. The caller holds the bus's mu.
func (o *Operation) endStep(now time.Time) {
	if o.step != "" && !o.ended {
		o.took[o.step] += now.Sub(o.since)
	}
	o.step = ""
}

// Froze says how long the processes of the app stood still.
func (o *Operation) Froze(took time.Duration) {
	o.bus.mu.Lock()
	defer o.bus.mu.Unlock()
	o.event.Frozen = took
}

// Saved names the snapshot that the operation has made, if that was not known when it
// began.
func (o *Operation) Saved(snapshot string) {
	o.bus.mu.Lock()
	defer o.bus.mu.Unlock()
	o.event.Snapshot = snapshot
}

// End tells that the operation has ended, and returns the event that tells it. err is
// why it failed; nil if it has not. It is called once.
func (o *Operation) End(err error) Event {
	now := time.Now()
	o.bus.mu.Lock()
	o.endStep(now)
	o.ended = true
	e := o.event
	e.Type, e.At, e.Took, e.Steps, e.Err = Ended, now, now.Sub(e.At), o.took, err
	o.bus.emit(&e)
	o.bus.mu.Unlock()
	o.bus.count(&e)
	return e
}
