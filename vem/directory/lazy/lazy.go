// Package lazy has a store of the directory that need not be reachable when it is opened.
package lazy

import (
	"context"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
)

// Store is a store that is connected to when it is asked for the first time: the directory
// does not have to be reachable when the daemon starts.
type Store struct {
	open func(ctx context.Context) (directory.Store, error)

	mu     sync.Mutex // guards what follows
	store  directory.Store
	closed bool
}

var _ directory.Store = (*Store)(nil)

// New returns a store that open connects to.
func New(open func(ctx context.Context) (directory.Store, error)) *Store { return &Store{open: open} }

// ask returns the store. Several may connect at the same time: one of the stores stays.
func (l *Store) ask(ctx context.Context) (directory.Store, error) {
	l.mu.Lock()
	s, closed := l.store, l.closed
	l.mu.Unlock()
	if closed {
		return nil, directory.ErrUnavailable
	}
	if s != nil {
		return s, nil
	}
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.store != nil {
		go s.Close() //nolint:errcheck // nothing was asked of it
	}
	switch {
	case l.closed:
		return nil, directory.ErrUnavailable
	case l.store == nil:
		l.store = s
	}
	return l.store, nil
}

// Get implements [directory.Store].
func (l *Store) Get(ctx context.Context, key string) (directory.Entry, error) {
	s, err := l.ask(ctx)
	if err != nil {
		return directory.Entry{}, err
	}
	return s.Get(ctx, key)
}

// List implements [directory.Store].
func (l *Store) List(ctx context.Context, prefix string) ([]directory.Entry, int64, error) {
	s, err := l.ask(ctx)
	if err != nil {
		return nil, 0, err
	}
	return s.List(ctx, prefix)
}

// Commit implements [directory.Store].
func (l *Store) Commit(ctx context.Context, t directory.Txn) (int64, error) {
	s, err := l.ask(ctx)
	if err != nil {
		return 0, err
	}
	return s.Commit(ctx, t)
}

// Watch implements [directory.Store].
func (l *Store) Watch(ctx context.Context, prefix string, after int64) func() ([]directory.Change, error) {
	s, err := l.ask(ctx)
	if err != nil {
		return func() ([]directory.Change, error) { return nil, err }
	}
	return s.Watch(ctx, prefix, after)
}

// KeepAlive implements [directory.Store].
func (l *Store) KeepAlive(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	s, err := l.ask(ctx)
	if err != nil {
		return err
	}
	return s.KeepAlive(ctx, key, value, ttl)
}

// Close implements [directory.Store].
func (l *Store) Close() error {
	l.mu.Lock()
	s := l.store
	l.closed, l.store = true, nil
	l.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Close()
}
