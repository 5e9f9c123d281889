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

	// follow starts a goroutine that waits for an app's process to end. Requests and
	// tasks may wait for such a goroutine, so stop leaves it running. Daemon.Close ends
	// it by closing the process, and then waits for it.
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
