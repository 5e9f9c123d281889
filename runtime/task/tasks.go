// Package task has the goroutines that a daemon runs besides its requests, and ends them.
package task

import (
	"context"
	"sync"
)

// Tasks are the goroutines that a daemon runs besides its requests.
type Tasks struct {
	ctx    context.Context //nolint:containedctx // of all tasks, which begin at any time
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// followers wait for the end of an app's process, see Follow.
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

// Follow starts a goroutine that waits for an app's process to end. Requests and
// tasks may wait for such a goroutine, so Stop leaves it running. Whoever has started it ends it
// by closing the process, and waits by Followed.
func (t *Tasks) Follow(fn func(context.Context)) { t.followers.Go(func() { fn(t.ctx) }) }

// Cancel has the tasks end, and does not wait for them.
func (t *Tasks) Cancel() { t.cancel() }

// Stop ends the tasks and waits for them, but not for the followers.
func (t *Tasks) Stop() {
	t.cancel()
	t.wg.Wait()
}

// Followed waits until no process is followed any more.
func (t *Tasks) Followed() { t.followers.Wait() }
