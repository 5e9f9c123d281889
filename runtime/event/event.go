// Package event is what happens in a daemon, told once: whoever does something
// emits an event, and everybody who wants to know listens.
//
// A [Bus] is the one source of events of a daemon. An operation, which takes time
// and has steps, is begun with [Bus.Begin]; the [Operation] that it returns emits
// the events of its steps and of its end, and measures both. What happens at one
// moment, such as the end of a program, is emitted with [Bus.Emit].
//
//	Begin -> begun    Operation.Step -> step, step, ...    Operation.End -> ended
//
// Who emits never waits for who listens: each [Subscription] has a queue of its own
// with a bound. What does not fit in is lost for this subscriber, who is told how much
// that was by an event of type [Missed]. A [Counter] sees every event, so it has to
// be quick. The bus also keeps the most recent events, for those who come late.
package event

import (
	"slices"
	"time"
)

// Type says what kind of thing happened.
type Type string

// The types of events.
const (
	Begun    Type = "begun"    // an operation has begun
	Step     Type = "step"     // an operation has come to its next step
	Ended    Type = "ended"    // an operation has ended, well or with an error
	Woken    Type = "woken"    // a hibernated app runs again; the reason says what woke it
	Exited   Type = "exited"   // the program of an app has ended; the reason says how
	Removed  Type = "removed"  // nothing is left of an app
	Refilled Type = "refilled" // a new holder was given the sockets of all held apps
	Missed   Type = "missed"   // this subscriber did not get some events: it was too slow
)

// Types lists all types of events.
func Types() []Type {
	return []Type{Begun, Step, Ended, Woken, Exited, Removed, Refilled, Missed}
}

// Kind names what an operation does.
type Kind string

// The kinds of operations.
const (
	Run            Kind = "run"
	Hibernate      Kind = "hibernate"
	Wake           Kind = "wake"
	Migrate        Kind = "migrate" // to another host: the reason says which
	Arrive         Kind = "arrive"  // from another host, which migrates it
	Snapshot       Kind = "snapshot"
	Restore        Kind = "restore"
	Stop           Kind = "stop"
	Remove         Kind = "remove"
	RemoveSnapshot Kind = "remove-snapshot"
	CreateTemplate Kind = "create-template"
	RemoveTemplate Kind = "remove-template"
	CloneRequest   Kind = "clone-request" // for one or more clones of a template, each of which is one of the next two
	Clone          Kind = "clone"         // one that is made at once
	HandOut        Kind = "hand-out"      // one that stood ready in the pool of its template
	FillPool       Kind = "fill-pool"     // a clone is made that is to stand ready

	SendSnapshot    Kind = "send-snapshot"    // to another host: the reason says which
	ReceiveSnapshot Kind = "receive-snapshot" // likewise
)

// Kinds lists all kinds of operations.
func Kinds() []Kind {
	return []Kind{
		Run, Hibernate, Wake, Migrate, Arrive, Snapshot, Restore, Stop, Remove, RemoveSnapshot,
		CreateTemplate, RemoveTemplate, CloneRequest, Clone, HandOut, FillPool, SendSnapshot, ReceiveSnapshot,
	}
}

// ID names an operation: it is the number of the event with which it began.
type ID uint64

// About says whom an event is about, and why it happened. What does not apply is
// empty.
type About struct {
	App      string
	Template string
	Snapshot string
	// Reason is why: of an operation that the daemon began by itself, and of the events
	// of which their types say so.
	Reason string
	// Within is the operation of which this one is a part; 0 if it is of none.
	Within ID
}

// Event is one thing that happened. It is a value; nobody changes its map.
type Event struct {
	// Number counts the events of a bus, from 1 on. That of type [Missed] has none.
	Number uint64
	At     time.Time
	Type   Type
	About

	// Operation and Kind are those of an operation's events.
	Operation ID
	Kind      Kind
	Step      string // of type Step: the one that begins

	// These are known when the operation has ended.
	Took   time.Duration
	Frozen time.Duration            // how long the app's processes stood still; 0 if they did not
	Steps  map[string]time.Duration // how long each step took, all of its times together
	Err    error                    // why it failed; nil if it has not

	Missed uint64 // of type Missed: how many events
}

// Filter chooses events. Of each field that is not empty an event has to fit one
// value. The zero Filter chooses all.
type Filter struct {
	Types []Type
	Kinds []Kind
	Apps  []string
	// Operation chooses the events of one operation and of those that are a part of it.
	Operation ID
	Since     time.Time // not before
}

// Chooses tells whether an event fits.
func (f *Filter) Chooses(e *Event) bool {
	return fits(f.Types, e.Type) && fits(f.Kinds, e.Kind) && fits(f.Apps, e.App) &&
		(f.Operation == 0 || f.Operation == e.Operation || f.Operation == e.Within) &&
		!e.At.Before(f.Since)
}

func fits[T comparable](wanted []T, got T) bool {
	return len(wanted) == 0 || slices.Contains(wanted, got)
}
