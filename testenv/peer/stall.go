package peer

import (
	"sync"
	"time"
)

// stall measures the longest time without news, but for the time in which it is
// suspended.
type stall struct {
	mu        sync.Mutex
	last      time.Time // of the last news; zero if it does not run
	most      time.Duration
	suspended bool
}

// begin starts the clock.
func (s *stall) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
}

// news tells that something came.
func (s *stall) news() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count()
	s.last = time.Now()
}

// count takes the present silence into account. s.mu is held.
func (s *stall) count() {
	if !s.suspended && !s.last.IsZero() {
		s.most = max(s.most, time.Since(s.last))
	}
}

// suspend stops the clock until resume.
func (s *stall) suspend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count()
	s.suspended = true
}

// resume starts the clock again, as if there were news.
func (s *stall) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspended = false
	if !s.last.IsZero() {
		s.last = time.Now()
	}
}

// end stops the clock.
func (s *stall) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count()
	s.last = time.Time{}
}

// max returns the longest time so far, the present one included.
func (s *stall) max() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count()
	return s.most
}
