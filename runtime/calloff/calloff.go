// Package calloff calls an operation off while it goes on, if something comes that makes it
// pointless: traffic, for an app that is just being hibernated.
//
//	watch, ctx := calloff.New(ctx)
//	  ... Start(wait): from here on, what wait waits for ends ctx
//	err := watch.End(operation(ctx), nil) // an *Error if that is why it failed
package calloff

import (
	"context"
	"errors"
	"sync"
)

// Error is why an operation was called off. The operation was undone.
type Error struct{ By string } // what came, one word: a wake.Reason

func (e *Error) Error() string {
	return "called off: traffic (" + e.By + ") came before it slept, and the app goes on"
}

// Aborted makes it an errdefs.ErrAborted: whoever asked may ask again.
func (e *Error) Aborted() {}

// Watch waits, beside an operation, for what calls it off.
type Watch struct {
	ctx    context.Context //nolint:containedctx // that of the operation
	cancel context.CancelCauseFunc
	waits  sync.WaitGroup
}

// New returns a watch that waits for nothing yet, and the context of the operation, which it ends.
// The caller calls End.
func New(ctx context.Context) (*Watch, context.Context) {
	w := &Watch{}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w, w.ctx
}

// Start has wait wait until it returns what has come. If it fails that ends the operation too: what
// is to call it off would not be seen. wait ends when its context does. Start returns at once.
func (w *Watch) Start(wait func(ctx context.Context) (by string, err error)) {
	w.waits.Go(func() {
		by, err := wait(w.ctx)
		if err != nil {
			w.cancel(&unwatchedError{err}) // which changes nothing if it is because the operation has ended
			return
		}
		w.cancel(&Error{By: by})
	})
}

// End ends the wait, and returns when it has ended. err is that of the operation, or nil; it is
// replaced if it says no more than that the operation's context has ended: by an *[Error] if that is
// because it was called off, which off, if it is not nil, is told before; or by why the wait failed.
func (w *Watch) End(err error, off func()) error {
	cause := context.Cause(w.ctx)
	w.cancel(nil)
	w.waits.Wait()
	if err == nil || !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		return err
	}
	if came, was := errors.AsType[*Error](cause); was {
		if off != nil {
			off()
		}
		return came
	}
	if failed, was := errors.AsType[*unwatchedError](cause); was {
		return failed
	}
	return err
}

// unwatchedError is a wait that failed.
type unwatchedError struct{ err error }

func (e *unwatchedError) Error() string { return "watch for traffic meanwhile: " + e.err.Error() }
func (e *unwatchedError) Unwrap() error { return e.err }
