package pause_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/pause"
)

func TestFor(t *testing.T) {
	live := t.Context()
	over, cancel := context.WithCancel(live)
	cancel()
	open, closed := make(chan struct{}), make(chan struct{})
	close(closed)
	for name, test := range map[string]struct {
		ctx   context.Context //nolint:containedctx // a row of a table
		d     time.Duration
		ended <-chan struct{}
		want  bool
	}{
		"time is over":            {live, time.Nanosecond, nil, true},
		"channel stays open":      {live, time.Nanosecond, open, true},
		"channel is closed":       {live, time.Hour, closed, false},
		"context has ended":       {over, time.Hour, nil, false},
		"no time":                 {live, 0, nil, true},
		"no time, ended context":  {over, 0, nil, false},
		"no time, closed channel": {live, 0, closed, true},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.Equals(pause.For(test.ctx, test.d, test.ended), test.want))
		})
	}
}

// A pause ends while somebody waits.
func TestForEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	results := make(chan bool)
	go func() { results <- pause.For(ctx, time.Hour, nil) }()
	go func() { results <- pause.For(t.Context(), time.Hour, ended) }()
	cancel()
	qt.Assert(t, qt.IsFalse(<-results))
	close(ended)
	qt.Assert(t, qt.IsFalse(<-results))
}
