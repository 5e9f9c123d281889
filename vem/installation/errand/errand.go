// Package errand has what runs beside requests until a host leaves its installation, or the daemon ends.
package errand

import (
	"context"
	"sync"
)

// Errands are what runs so. All exported fields are required.
type Errands struct {
	Background func(func(context.Context)) // runs something until the daemon ends
	Left       <-chan struct{}             // closed by Stop
	Stop       context.CancelFunc

	mu    sync.Mutex // guards what follows, and that all goes up
	ended bool
	all   sync.WaitGroup
}

// Run runs something. Once End was called it does nothing.
func (e *Errands) Run(do func(context.Context)) {
	if !e.begin() {
		return
	}
	e.Background(func(ctx context.Context) {
		defer e.all.Done()
		ctx, cancel := context.WithCancel(ctx)
		var watch sync.WaitGroup
		defer watch.Wait()
		defer cancel()
		watch.Go(func() {
			select {
			case <-e.Left:
				cancel()
			case <-ctx.Done():
			}
		})
		do(ctx)
	})
}

func (e *Errands) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		e.all.Add(1)
	}
	return !e.ended
}

// End has all of it end, and waits for that.
func (e *Errands) End() {
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
	e.Stop()
	e.all.Wait()
}
