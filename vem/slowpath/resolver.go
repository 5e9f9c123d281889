package slowpath

import (
	"context"
	"errors"
	"net/netip"
)

// ErrNobody is the answer of a [Resolver] that knows that nobody has the address.
var ErrNobody = errors.New("nobody has the address")

// ErrSource is the answer of a [Resolver] that has no way for the source of a query, though it may
// have one for others.
var ErrSource = errors.New("no way for this source")

// ErrStray is as ErrSource, of a packet that came here though its destination is elsewhere by now, or
// about to be: its sender's host learns that soon. It is dropped, as on a wire: a sender that was
// told would give up for nothing.
var ErrStray = errors.New("a packet went astray")

// Query asks for a way to a destination.
type Query struct {
	Network     string
	Source      netip.Addr // of the first packet; zero if none is known
	Destination netip.Addr
}

// Resolver finds ways. Its methods are called from several goroutines at once, though never for
// one destination at the same time.
type Resolver interface {
	// Resolve finds the way to a destination, and begins nothing that Way.Prepare could do. It
	// is also asked for a destination that has a way already, whose packets were underway when
	// the way was opened: it returns that way, or one whose methods find everything done.
	//
	// It returns an error wrapping [ErrNobody] if nobody has the address: those who send there
	// are told so. After one wrapping [ErrSource] the same is true of the source alone, and it is
	// not remembered; if packets of another one wait it is asked for that. One wrapping [ErrStray]
	// is the same, but that nobody is told. After any other error
	// the packets go on waiting, and it is asked again.
	// It returns soon after ctx has ended.
	Resolve(ctx context.Context, q Query) (Way, error)
}

// Way leads to one destination: over a channel to another host, or to an endpoint of this one.
// Both methods are idempotent, and return soon after ctx has ended.
type Way interface {
	// Prepare makes the way usable for what comes out of the slow path's device, and for nothing
	// else. All that waits takes it before Open is called, so that nothing overtakes it.
	//
	// Where the two can't be told apart, Prepare does all of it.
	Prepare(ctx context.Context) error
	// Open makes the way usable for everybody: the destination's packets come to the slow path no
	// more, but for those that were underway.
	Open(ctx context.Context) error
}
