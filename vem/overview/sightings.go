package overview

import (
	"sync"
	"time"
)

// Sightings are when hosts came up, or fell silent. Its methods may be called at the same time.
type Sightings struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// Note notes that a host is seen now, or not any more.
func (s *Sightings) Note(host string, _ bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since = make(map[string]time.Time)
	}
	s.since[host] = time.Now()
}

// Of returns when that was; zero: it is not known.
func (s *Sightings) Of(host string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since[host]
}
