package slowpath

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Reason says why a packet was dropped.
type Reason int

const (
	kept Reason = iota
	// Malformed is a frame that is no IP packet, or a broken one.
	Malformed
	// Foreign is a packet for an address outside the network, such as the kernel's own multicast.
	Foreign
	// Broadcast is one for all of the network, which has no broadcast.
	Broadcast
	// DestinationFull is one for a destination for which as much as may waits already.
	DestinationFull
	// SourceFull is one from a source of which as much as may waits already.
	SourceFull
	// Full is one that came when as much as may waited over all.
	Full
	// Scan is one from a source that waits for as many new destinations as it may.
	Scan
	// TooMany is one for a new destination when there were as many as there may be.
	TooMany
	// Nobody is one for an address that nobody has.
	Nobody
	// Barred is one from a source for which there is no way to its destination.
	Barred
	// Expired is one for which no way was found in time.
	Expired
	// Refused is one that the kernel did not take back, since its device is down or gone.
	Refused
	// Closed is one that waited when the slow path was closed.
	Closed
	reasons
)

var reasonNames = [reasons]string{
	"kept", "malformed", "foreign", "broadcast", "destination-full", "source-full", "full", "scan", "too-many",
	"nobody", "barred", "expired", "refused", "closed",
}

// String returns a short name in lower case, with hyphens.
func (r Reason) String() string {
	if r < 0 || r >= reasons {
		return fmt.Sprintf("Reason(%d)", int(r))
	}
	return reasonNames[r]
}

// State says what becomes of a destination's packets.
type State int

const (
	// Asking is that they wait until a way is found.
	Asking State = iota
	// Passing is that a way is there, and what still comes goes out at once.
	Passing
	// Absent is that nobody has the address, and those who send there are told so.
	Absent
	// Gated is that they wait for [Path.Release].
	Gated
	gone // not a destination any more
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Asking:
		return "asking"
	case Passing:
		return "passing"
	case Absent:
		return "absent"
	case Gated:
		return "gated"
	case gone:
		return "gone"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Snapshot is the slow path at one moment. What is not said to be of now counts since Open.
type Snapshot struct {
	Destinations []Destination // now, in the order of addresses
	Packets      int           // that wait now
	Bytes        int           // of these; see [Limits]
	Delivered    uint64        // packets, to the kernel
	Lookups      uint64        // calls of Resolver.Resolve
	Failures     uint64        // of these, of Prepare and of Open, but for ErrNobody
	Negative     uint64        // packets for an address that was known to be nobody's
	Unreachable  uint64        // ICMP errors sent
	Silent       uint64        // ICMP errors not sent, since there were too many
	Overflow     uint64        // packets that the kernel dropped, as they came faster than they were read
	Dropped      map[Reason]uint64
}

// Destination is an address to which packets came that had no way.
type Destination struct {
	Address netip.Addr
	State   State
	Packets int // that wait
	Bytes   int // of these
	Since   time.Time
}

// counters may be used without a lock.
type counters struct {
	delivered, lookups, failures, negative, unreachable, silent atomic.Uint64

	dropped [reasons]atomic.Uint64
}

func (c *counters) drop(why Reason, n int) { c.dropped[why].Add(uint64(n)) }

// snapshot returns all but Overflow.
func (q *queues) snapshot() Snapshot {
	s := Snapshot{
		Delivered:   q.count.delivered.Load(),
		Lookups:     q.count.lookups.Load(),
		Failures:    q.count.failures.Load(),
		Negative:    q.count.negative.Load(),
		Unreachable: q.count.unreachable.Load(),
		Silent:      q.count.silent.Load(),
		Dropped:     map[Reason]uint64{},
	}
	for why := kept + 1; why < reasons; why++ {
		if n := q.count.dropped[why].Load(); n > 0 {
			s.Dropped[why] = n
		}
	}
	q.mu.Lock()
	for _, d := range q.destinations {
		s.Destinations = append(s.Destinations, Destination{d.address, d.state, len(d.waiting), d.bytes, d.since})
		s.Packets += len(d.waiting)
	}
	s.Bytes = q.bytes
	q.mu.Unlock()
	slices.SortFunc(s.Destinations, func(a, b Destination) int { return a.Address.Compare(b.Address) })
	return s
}
