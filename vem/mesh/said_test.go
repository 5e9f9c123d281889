package mesh

import (
	"context"
	"log/slog"
	"sync"
)

// said counts what was logged, by message.
type said struct {
	mu     sync.Mutex // guards what follows
	counts map[string]int
}

// Handle implements [slog.Handler].
func (s *said) Handle(_ context.Context, r slog.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = make(map[string]int)
	}
	s.counts[r.Message]++
	return nil
}

// Enabled implements [slog.Handler].
func (s *said) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements [slog.Handler].
func (s *said) WithAttrs([]slog.Attr) slog.Handler { return s }

// WithGroup implements [slog.Handler].
func (s *said) WithGroup(string) slog.Handler { return s }

func (s *said) count(message string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[message]
}
