package installation

import (
	"context"
	"sync"
)

// errands are what runs beside requests until this host leaves its installation, or the daemon ends.
type errands struct {
	background func(func(context.Context)) // until the daemon ends
	left       <-chan struct{}             // closed by stop
	stop       context.CancelFunc

	mu    sync.Mutex // guards what follows, and that all goes up
	ended bool
	all   sync.WaitGroup
}

// run runs something. Once end was called it does nothing.
func (e *errands) run(do func(context.Context)) {
	if !e.begin() {
		return
	}
	e.background(func(ctx context.Context) {
		defer e.all.Done()
		ctx, cancel := context.WithCancel(ctx)
		var watch sync.WaitGroup
		defer watch.Wait()
		defer cancel()
		watch.Go(func() {
			select {
			case <-e.left:
				cancel()
			case <-ctx.Done():
			}
		})
		do(ctx)
	})
}

func (e *errands) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		e.all.Add(1)
	}
	return !e.ended
}

// end has all of it end, and waits for that.
func (e *errands) end() {
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
	e.stop()
	e.all.Wait()
}
