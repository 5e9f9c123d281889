package daemon

import "time"

// steps measures the steps of an operation and tells them to who waits for it.
type steps struct {
	tell  func(string)
	name  string
	since time.Time
	took  map[string]time.Duration
}

func newSteps(tell func(string)) *steps {
	return &steps{tell: tell, took: make(map[string]time.Duration)}
}

func (s *steps) begin(name string) {
	s.end()
	s.name, s.since = name, time.Now()
	if s.tell != nil {
		s.tell(name)
	}
}

func (s *steps) end() map[string]time.Duration {
	if s.name != "" {
		s.took[s.name] += time.Since(s.since)
		s.name = ""
	}
	return s.took
}
