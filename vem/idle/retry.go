package idle

import "time"

// Retry says when to try again to hibernate an app, if that has failed: after pauses that
// grow. If the app was refused for something that it has, it is not tried again before that
// changes. The zero value has seen no failure.
type Retry struct {
	tries   int
	next    time.Time
	refused string
}

// The pauses grow from the shortest to the longest.
const (
	shortestPause = time.Second
	longestPause  = time.Hour
)

// Failed notes a failure. refused is what stands in the way for as long as the app does
// not change, or empty.
func (r *Retry) Failed(now time.Time, refused string) {
	if refused != r.refused {
		r.tries = 0
	}
	r.refused = refused
	r.next = now.Add(min(shortestPause<<min(r.tries, 20), longestPause))
	r.tries++
}

// Due tells whether it is time to look again, and if not when it will be.
func (r *Retry) Due(now time.Time) (due bool, next time.Time) {
	return !now.Before(r.next), r.next
}

// Refused is what stood in the way when it failed last; empty if it may go now, for all
// that is known.
func (r *Retry) Refused() string { return r.refused }
