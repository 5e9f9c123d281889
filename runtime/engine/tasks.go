package engine

import (
	"context"
	"sync"
)

// Tasks are the goroutines that a daemon runs besides its requests.
type Tasks struct {
	ctx    context.Context //nolint:containedctx // of all tasks, which begin at any time
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// followers wait for the end of an app's process, see follow.
	followers sync.WaitGroup
}

// NewTasks returns tasks whose context ends with ctx, or when they are cancelled.
func NewTasks(ctx context.Context) *Tasks {
	t := &Tasks{}
	t.ctx, t.cancel = context.WithCancel(ctx)
	return t
}

// Run runs fn in a goroutine, with a context that ends when the tasks are to end.
func (t *Tasks) Run(fn func(context.Context)) { t.wg.Go(func() { fn(t.ctx) }) }

// follow starts a goroutine that waits for an app's process to end. Requests and
// tasks may wait for such a goroutine, so Stop leaves it running. [Engine.Close] ends
// it by closing the process, and then waits for it.
func (t *Tasks) follow(fn func(context.Context)) { t.followers.Go(func() { fn(t.ctx) }) }

// Cancel has the tasks end, and does not wait for them.
func (t *Tasks) Cancel() { t.cancel() }

// Stop ends the tasks and waits for them, but not for the followers.
func (t *Tasks) Stop() {
	t.cancel()
	t.wg.Wait()
}
