package slowpath

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/semaphore"
)

// destination is an address that packets came for. Its goroutine, [queues.serve], goes from state
// to state; others change the state of a destination by Gate, Release and Forget. All fields but
// address and wake are guarded by queues.mu.
//
//	        first packet                                       Gate
//	─────────────▶ Asking ──way──▶ Passing ──a while──▶ gone    any state ──────▶ Gated
//	                │  ▲
//	                │  └─ pause ─ error                         Release
//	                ├── ErrNobody ──▶ Absent ──a while──▶ gone  Gated ──────▶ Asking, or gone
//	                └── patience over ──▶ gone                         if nothing waits
type destination struct {
	address netip.Addr
	first   netip.Addr // the source of the packet that began it
	state   State
	waiting []frame // in the order in which they came
	bytes   int     // of waiting, with their costs
	since   time.Time
	starter *source // which this destination counts for; nil: none

	writing   bool               // somebody writes its packets, and goes on until none waits
	interrupt context.CancelFunc // ends what its goroutine does with the resolver; nil: nothing
	stale     bool               // it was forgotten while the resolver worked for it
	quiet     chan struct{}      // closed when neither of the first two is; nil: nobody waits for it

	wake chan struct{} // one element: look at the state again
}

// frame is a frame that waits, ready to be written.
type frame struct {
	raw  []byte
	from *source
}

func (f frame) cost() int { return len(f.raw) + frameCost }

// source is an address that packets wait from, or that has begun destinations.
type source struct {
	address      netip.Addr
	bytes        int // that wait
	destinations int
	lookups      *semaphore.Weighted
}

// poke makes the destination's goroutine look at the state.
func (d *destination) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// busy tells whether packets of the destination may be on their way to the kernel.
func (d *destination) busy() bool { return d.writing || d.interrupt != nil }

// settle tells those who wait that it is not busy any more.
func (d *destination) settle() {
	if !d.busy() && d.quiet != nil {
		close(d.quiet)
		d.quiet = nil
	}
}

// take removes the first n of the waiting frames.
func (d *destination) take(n int) []frame {
	n = min(n, len(d.waiting))
	first := append([]frame(nil), d.waiting[:n]...)
	clear(d.waiting[:n]) // so that they can be collected
	d.waiting = d.waiting[n:]
	if len(d.waiting) == 0 {
		d.waiting = nil
	}
	return first
}
