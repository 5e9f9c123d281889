package checkpoint

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Sessions are those that go on in an app. Its methods may be called at the same time.
type Sessions struct {
	mu   sync.Mutex
	list []Session
}

// Begin adds a session; the returned function takes it away.
func (s *Sessions) Begin(pid int, args []string) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, Session{PID: pid, Args: args, Since: time.Now()})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.list = slices.DeleteFunc(s.list, func(one Session) bool { return one.PID == pid })
	}
}

// Now are those that are going on.
func (s *Sessions) Now() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// First says which session has been going on for the longest time; empty if there is none.
func (s *Sessions) First() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return ""
	}
	one := s.list[0]
	return fmt.Sprintf("`snapctl exec` runs %q in it since %s", strings.Join(one.Args, " "), one.Since.UTC().Format(time.RFC3339))
}
