package daemon

import (
	"context"
	"sync"
)

// tasks are the goroutines that a daemon runs besides its requests.
type tasks struct {
	run    func(func(context.Context))
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// follow is run for what waits for the end of a process: requests and
	// other tasks may depend on it, so it ends after them, by the closing of
	// the process.
	follow    func(func(context.Context))
	followers sync.WaitGroup
}

func (t *tasks) start(ctx context.Context) {
	ctx, t.cancel = context.WithCancel(ctx)
	t.run = func(fn func(context.Context)) { t.wg.Go(func() { fn(ctx) }) }
	t.follow = func(fn func(context.Context)) { t.followers.Go(func() { fn(ctx) }) }
}

// stop ends the tasks and waits for them, but not for the followers.
func (t *tasks) stop() {
	t.cancel()
	t.wg.Wait()
}
