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
}

func (t *tasks) start(ctx context.Context) {
	ctx, t.cancel = context.WithCancel(ctx)
	t.run = func(fn func(context.Context)) { t.wg.Go(func() { fn(ctx) }) }
}

// stop ends the tasks and waits for them.
func (t *tasks) stop() {
	t.cancel()
	t.wg.Wait()
}
