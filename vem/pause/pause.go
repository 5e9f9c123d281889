// Package pause waits for a while, for loops that try or look again.
package pause

import (
	"context"
	"time"
)

// For waits for d. It returns true after that time, and false as soon as ctx has ended or the
// channel was closed; a nil channel never is. With d zero it does not wait, and asks ctx alone.
func For(ctx context.Context, d time.Duration, ended <-chan struct{}) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ended:
		return false
	case <-ctx.Done():
		return false
	}
}
