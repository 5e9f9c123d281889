package lazy

import (
	"context"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

// The directory does not have to be there when the daemon starts.
func TestLazyStore(t *testing.T) {
	store, there := memory.New(), false
	l := New(func(context.Context) (directory.Store, error) {
		if !there {
			return nil, directory.ErrUnavailable
		}
		return store.Open(), nil
	})
	ctx := t.Context()
	_, err := l.Get(ctx, "k")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	_, _, err = l.List(ctx, "k")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	_, err = l.Commit(ctx, directory.Txn{})
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	_, err = l.Watch(ctx, "k", 0)()
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
	qt.Check(t, qt.ErrorIs(l.KeepAlive(ctx, "k", nil, time.Second), directory.ErrUnavailable))
	there = true
	_, err = l.Commit(ctx, directory.Txn{Puts: []directory.Put{{Key: "k", Value: []byte("v")}}})
	qt.Assert(t, qt.IsNil(err))
	e, err := l.Get(ctx, "k")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(e.Value), "v"))
	list, revision, err := l.List(ctx, "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(list, 1))
	next := l.Watch(ctx, "", revision-1)
	changes, err := next()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(changes, 1))
	qt.Assert(t, qt.IsNil(l.Close()))
	qt.Assert(t, qt.IsNil(l.Close()))
	_, err = l.Get(ctx, "k")
	qt.Check(t, qt.ErrorIs(err, directory.ErrUnavailable))
}
