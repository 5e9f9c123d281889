package probe

import (
	"net/netip"
	"time"
)

const (
	// confirmEvery and growEvery are after how many echoes the largest size is asked for again,
	// and larger ones are.
	confirmEvery, growEvery = 5, 60
	// longestWait is how long an echo is waited for at most.
	longestWait = 3 * time.Second
	// remembered is how many asks of a way are remembered whose echo may come late.
	remembered = 8
)

// Pair is a way: an address of this host, and one of another host with the port of its control
// channel.
type Pair struct {
	Local  netip.Addr
	Remote netip.AddrPort
}

// Way is what is known of a pair.
type Way struct {
	Pair

	State State
	// Steady tells that the way has worked for long enough to be taken instead of one that
	// works.
	Steady bool
	// Run is how many of the last asks were answered, without one that was not.
	Run int
	// RoundTrip is that of small packets, smoothed; 0: none came back.
	RoundTrip time.Duration
	// Loss is the share of the last 64 asks that were not answered, by a loss in either direction.
	Loss float64
	// MTU is the largest packet that the way carries from this host; 0: not known yet; 1279: it is
	// too small for any network.
	MTU int
}

// purpose is what an ask is to find out.
type purpose int

const (
	alive   purpose = iota // whether the way works
	size                   // whether packets of a size come through
	confirm                // whether they still do
	witness                // whether small packets come through meanwhile
)

// sent is an ask that went out.
type sent struct {
	way    *way
	number uint64
	key    Key
	why    purpose
	size   int // of the IP packet
	index  int // how many asks about life were before it
	at     time.Time
	until  time.Time // it counts as missed then; zero: it does already
}

// way is a pair that is probed.
type way struct {
	pair   Pair
	host   *peer
	health health
	size   search

	waiting  *sent   // the ask about life that is out
	sizes    []*sent // asks about sizes that are out, and their witness
	missed   []*sent // of those that went out with them, the ones that were not answered in time
	small    bool    // their witness was answered in time
	old      []*sent // asks about life that were missed
	next     time.Time
	echoes   int // since the largest size was asked for
	unproven int // how often it was asked for in vain
	grown    int // echoes since larger sizes were asked for
}

// told is what others are told of a way.
func (w *way) told() Way {
	h := &w.health
	loss := h.loss(0)
	if h.state == Down {
		loss = 1
	}
	return Way{Pair: w.pair, State: h.state, Steady: h.steady(), Run: h.run, RoundTrip: h.rtt, Loss: loss, MTU: w.size.found}
}

// matters is what of it makes a difference to who uses ways.
func (w *way) matters() (State, bool, int) {
	return w.health.state, w.health.steady(), w.size.found
}

// wait is how long an echo is waited for.
func (w *way) wait(interval time.Duration) time.Duration {
	return max(interval/2, min(4*w.health.rtt, longestWait))
}

// shortWait is how long the echo of a large packet is waited for: it takes several that are lost
// to believe that they are too large, so a short wait does no harm.
func (w *way) shortWait(interval time.Duration) time.Duration {
	return max(interval/8, min(4*w.health.rtt, longestWait))
}

// overhead is what an ask has before its payload.
func (p Pair) overhead() int {
	if p.Local.Is4() {
		return 20 + 8
	}
	return 40 + 8
}
