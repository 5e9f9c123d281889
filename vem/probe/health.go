package probe

import (
	"math"
	"math/bits"
	"time"
)

// State is what is known of a way.
type State int

const (
	// Unknown ways were never answered, and not asked often enough to be down.
	Unknown State = iota
	// Up is a way whose asks are answered.
	Up
	// Lossy is a way that loses so much that another one is better.
	Lossy
	// Down is a way whose asks are not answered.
	Down
)

// String returns "unknown", "up", "lossy" or "down".
func (s State) String() string {
	return [...]string{"unknown", "up", "lossy", "down"}[s]
}

const (
	minMisses, maxMisses = 3, 16
	// sure is how seldom a way that only loses is to be taken for one that is down: once in so
	// many asks.
	sure = 10_000
	// memory is of how many asks the loss is counted, and enough is how many it takes.
	memory, enough = 64, 32
	// A way is lossy that loses at least so much, and steady one that loses at most so much.
	lossy, steadyLoss = 0.25, 0.1
	// steadyAfter is after how many echoes in a row a way is trusted that was always good; each time
	// that it goes down or gets lossy doubles it, up to maxSteady, and so many in a row make it as
	// before.
	steadyAfter, maxSteady = 10, 640
)

// health is that of one way. It is given what became of each ask, in the order of asks.
type health struct {
	state   State
	misses  int    // in a row
	run     int    // echoes in a row
	needs   int    // how many in a row make it steady
	history uint64 // of the last asks, the newest in bit 0; set: missed
	known   int    // how many bits of it mean something
	asked   int    // how many asks there were at all
	rtt     time.Duration
}

func newHealth() health { return health{needs: steadyAfter} }

// echoed notes that an ask was answered.
func (h *health) echoed(rtt time.Duration) {
	h.note(0)
	h.measure(rtt)
	h.alive()
	h.run++
	if h.run >= maxSteady {
		h.needs = steadyAfter
	}
	if h.steady() {
		h.state = Up
	}
}

// late notes that an ask was answered after it was taken for missed. ago is how many asks came
// after it.
func (h *health) late(rtt time.Duration, ago int) {
	if ago < h.known {
		h.history &^= 1 << ago
	}
	h.measure(rtt)
	h.alive()
}

func (h *health) alive() {
	h.misses = 0
	if h.state != Lossy {
		h.state = Up
	}
	if h.state == Up && h.known >= enough && h.loss(0) >= lossy {
		h.state = Lossy
		h.relapse()
	}
}

// missed notes that an ask was not answered in time.
func (h *health) missed() {
	h.note(1)
	h.misses++
	if h.state != Down {
		if h.misses < h.patience() {
			return
		}
		h.relapse()
		h.state = Down
	}
	// What it loses when it is back says how good it is then.
	h.history, h.known = 0, 0
}

// relapse makes it take longer until the way is trusted again.
func (h *health) relapse() { h.needs = min(2*h.needs, maxSteady) }

func (h *health) note(miss uint64) {
	if miss != 0 {
		h.run = 0
	}
	h.history = h.history<<1 | miss
	h.known = min(h.known+1, memory)
	h.asked++
}

// measure smooths the round trip (RFC 6298, 2.3).
func (h *health) measure(rtt time.Duration) {
	if h.rtt == 0 {
		h.rtt = rtt
		return
	}
	h.rtt += (rtt - h.rtt) / 8
}

// loss is the share that was lost, without the last asks.
func (h *health) loss(without int) float64 {
	n := h.known - without
	if n <= 0 {
		return 0
	}
	mask := ^uint64(0) >> (memory - n)
	return float64(bits.OnesCount64(h.history>>without&mask)) / float64(n)
}

// patience is how many misses in a row bring the way down: with the loss that it had before them
// so many come by chance once in sure asks.
func (h *health) patience() int {
	p := h.loss(h.misses)
	if p <= 0 {
		return minMisses
	}
	return min(max(int(math.Ceil(-math.Log(sure)/math.Log(min(p, 0.9)))), minMisses), maxMisses)
}

// steady tells whether the way has worked for long enough to be trusted.
func (h *health) steady() bool {
	return h.state != Down && h.run >= h.needs && h.loss(0) <= steadyLoss
}
