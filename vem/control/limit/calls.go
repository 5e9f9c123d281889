package limit

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Budget is what one peer may have at a time.
type Budget struct {
	Calls     int     // under way
	Streams   int     // open
	PerSecond float64 // begun calls and streams, in the long run
	Burst     int     // begun at once
}

// Kind is what a peer begins.
type Kind int

const (
	// Call is a call with one answer.
	Call Kind = iota
	// Stream is a stream of messages.
	Stream
)

// Calls counts what each peer has begun, and refuses what is more than its budget. Its methods
// may be called at the same time.
type Calls struct {
	budget Budget

	mu    sync.Mutex
	peers map[string]*use // bounded by how many hosts have certificates
}

// use is what one peer uses.
type use struct {
	open   [2]int // by kind
	tokens *rate.Limiter
}

// NewCalls returns a counter that allows each peer the budget.
func NewCalls(b Budget) *Calls {
	return &Calls{budget: b, peers: make(map[string]*use)}
}

// Begin counts a call or stream of a peer that begins now, until done is called, which can be
// repeated. Returns a *[BusyError] if the peer has used up its budget: then nothing is counted.
func (c *Calls) Begin(peer string, kind Kind, now time.Time) (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.peers[peer]
	if u == nil {
		u = &use{tokens: rate.NewLimiter(rate.Limit(c.budget.PerSecond), c.budget.Burst)}
		c.peers[peer] = u
	}
	limit, what := c.budget.Calls, "calls are under way"
	if kind == Stream {
		limit, what = c.budget.Streams, "streams are open"
	}
	if u.open[kind] >= limit {
		return nil, &BusyError{Why: fmt.Sprintf("%d %s, which is all that one host may have", limit, what), RetryAfter: 100 * time.Millisecond}
	}
	if !u.tokens.AllowN(now, 1) {
		return nil, &BusyError{
			Why:        fmt.Sprintf("one host may begin %.0f calls a second", c.budget.PerSecond),
			RetryAfter: time.Duration(float64(time.Second) / c.budget.PerSecond),
		}
	}
	u.open[kind]++
	return sync.OnceFunc(func() { c.end(u, kind) }), nil
}

func (c *Calls) end(u *use, kind Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u.open[kind]--
}

// Forget drops what is known of a peer that is not a host of the installation any more.
func (c *Calls) Forget(peer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, peer)
}

// BusyError is that a peer has used up its budget.
type BusyError struct {
	Why        string
	RetryAfter time.Duration // it may help to try again after so long
}

func (e *BusyError) Error() string { return e.Why }
