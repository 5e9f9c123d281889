package calloff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
)

func came(context.Context) (string, error) { return "data", nil }

func never(ctx context.Context) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

func broken(context.Context) (string, error) { return "", io.EOF }

// until waits for the end of an operation's context, as an operation that is interrupted does.
func until(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("operation: %w", ctx.Err())
}

func TestCalledOff(t *testing.T) {
	for name, operation := range map[string]func(context.Context) error{
		"error": until,
		"cause": func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("operation: %w", context.Cause(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, ctx := New(t.Context())
			told := 0
			w.Start(came)
			err := w.End(operation(ctx), func() { told++ })
			off, ok := errors.AsType[*Error](err)
			qt.Assert(t, qt.IsTrue(ok), qt.Commentf("%v", err))
			qt.Check(t, qt.Equals(off.By, "data"))
			qt.Check(t, qt.Equals(told, 1))
			qt.Check(t, qt.IsTrue(errdefs.IsAborted(err)))
			qt.Check(t, qt.ErrorMatches(err, `called off: traffic \(data\) came before it slept, and the app goes on`))
		})
	}
}

// What fails for another reason, or does not fail although it was called off, is not changed.
func TestNotCalledOff(t *testing.T) {
	t.Run("succeeded", func(t *testing.T) {
		w, ctx := New(t.Context())
		w.Start(came)
		<-ctx.Done()
		qt.Check(t, qt.IsNil(w.End(nil, unexpected(t))))
	})
	t.Run("failed meanwhile", func(t *testing.T) {
		w, ctx := New(t.Context())
		w.Start(came)
		<-ctx.Done()
		qt.Check(t, qt.Equals(w.End(io.ErrNoProgress, unexpected(t)), io.ErrNoProgress))
	})
	t.Run("nothing came", func(t *testing.T) {
		w, ctx := New(t.Context())
		w.Start(never)
		qt.Check(t, qt.IsNil(ctx.Err()))
		qt.Check(t, qt.IsNil(w.End(nil, unexpected(t))))
		qt.Check(t, qt.IsNotNil(ctx.Err())) // nobody waits any more
	})
	t.Run("nobody waits", func(t *testing.T) {
		w, ctx := New(t.Context())
		w.Start(broken)
		err := w.End(until(ctx), unexpected(t))
		qt.Check(t, qt.ErrorIs(err, io.EOF))
		qt.Check(t, qt.ErrorMatches(err, "watch for traffic meanwhile: EOF"))
	})
	t.Run("cancelled by its caller", func(t *testing.T) {
		outer, cancel := context.WithCancel(t.Context())
		w, ctx := New(outer)
		w.Start(never)
		cancel()
		err := w.End(until(ctx), unexpected(t))
		qt.Check(t, qt.ErrorIs(err, context.Canceled))
		_, off := errors.AsType[*Error](err)
		qt.Check(t, qt.IsFalse(off))
	})
	t.Run("not begun", func(t *testing.T) {
		w, _ := New(t.Context())
		qt.Check(t, qt.IsNil(w.End(nil, unexpected(t))))
	})
}

func unexpected(t *testing.T) func() {
	t.Helper()
	return func() { t.Error("told that it was called off") }
}
