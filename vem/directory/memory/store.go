package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
)

// Fault is what becomes of the calls of a store.
type Fault int

// All but None and Doubled make calls return an error wrapping [directory.ErrUnavailable].
const (
	None    Fault = iota
	Cut           // nothing happens, and the call fails at once
	Stalled       // the call waits until its context ends, or the fault does: then it happens
	Lost          // a Commit happens, and then fails; other calls fail
	Late          // a Commit fails, and happens when Deliver is called; other calls fail
	Doubled       // a Commit happens, and happens once more when Deliver is called; no call fails
)

// patience is how long a call of a stalled store waits if its context has no deadline.
const patience = 5 * time.Second

var errClosed = errors.New("the store is closed")

// Store is a host's way to a [Server].
type Store struct {
	server *Server
	closed chan struct{}

	mu      sync.Mutex
	fault   Fault
	next    []Fault // of the next commits, before fault counts again
	late    []directory.Txn
	changed chan struct{} // closed and made anew when fault changes
	ended   bool          // closed is closed
	keeping sync.WaitGroup
}

var _ directory.Store = (*Store)(nil)

// Set makes a fault that of all calls from now on. Watches wait while it is not None.
func (s *Store) Set(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
	close(s.changed)
	s.changed = make(chan struct{})
}

// Next gives the next commits one fault each; after them that of Set counts again.
func (s *Store) Next(f ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, f...)
}

// Deliver makes the commits happen that are Late or Doubled, in their order, and returns what became of
// each. They stay there: calling Deliver again makes them happen twice.
func (s *Store) Deliver() []error {
	s.mu.Lock()
	late := s.late
	s.mu.Unlock()
	var errs []error
	for _, t := range late {
		_, err := s.server.commit(t)
		errs = append(errs, err)
	}
	return errs
}

// Forget drops the commits that are Late or Doubled: they never happen.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = nil
}

// now returns the fault of a call, and a channel that tells when it may have changed.
func (s *Store) now(commit bool) (Fault, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if commit && len(s.next) > 0 {
		f := s.next[0]
		s.next = s.next[1:]
		return f, s.changed
	}
	return s.fault, s.changed
}

// pass waits while the store is stalled, and returns the fault that the call is to meet.
func (s *Store) pass(ctx context.Context, commit bool) (Fault, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for {
		f, changed := s.now(commit)
		select {
		case <-ctx.Done():
			return f, ended(ctx)
		case <-s.closed:
			return f, errClosed
		default:
		}
		if f != Stalled {
			return f, nil
		}
		select {
		case <-ctx.Done():
		case <-s.closed:
		case <-changed:
		}
	}
}

// ended is the error of a call whose context has ended.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer in time", directory.ErrUnavailable)
	}
	return ctx.Err()
}

// reach is pass for calls that change nothing.
func (s *Store) reach(ctx context.Context) error {
	f, err := s.pass(ctx, false)
	if err == nil && f != None && f != Doubled {
		err = fmt.Errorf("%w: it was cut off", directory.ErrUnavailable)
	}
	return err
}

// Get implements [directory.Store].
func (s *Store) Get(ctx context.Context, key string) (directory.Entry, error) {
	if err := s.reach(ctx); err != nil {
		return directory.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	e := s.server.get(key)
	if e.Revision == 0 {
		return e, fmt.Errorf("get %s: %w", key, directory.ErrNotFound)
	}
	return e, nil
}

// List implements [directory.Store].
func (s *Store) List(ctx context.Context, prefix string) ([]directory.Entry, int64, error) {
	if err := s.reach(ctx); err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	entries, rev := s.server.list(prefix)
	return entries, rev, nil
}

// Commit implements [directory.Store].
func (s *Store) Commit(ctx context.Context, t directory.Txn) (int64, error) {
	if err := t.Validate(); err != nil {
		return 0, err
	}
	f, err := s.pass(ctx, true)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	switch f {
	case None:
		return s.server.commit(t)
	case Doubled:
		s.delay(t)
		return s.server.commit(t)
	case Lost:
		_, _ = s.server.commit(t) // nobody learns what became of it
	case Late:
		s.delay(t)
	case Cut, Stalled:
	}
	return 0, fmt.Errorf("commit: %w: it was cut off", directory.ErrUnavailable)
}

func (s *Store) delay(t directory.Txn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = append(s.late, t)
}

// Watch implements [directory.Store].
func (s *Store) Watch(ctx context.Context, prefix string, after int64) func() ([]directory.Change, error) {
	return func() ([]directory.Change, error) {
		for {
			f, healed := s.now(false)
			var changed <-chan struct{}
			if err := s.over(ctx); err != nil {
				return nil, fmt.Errorf("watch %s: %w", prefix, err)
			}
			if f == None {
				var changes []directory.Change
				var err error
				changes, after, changed, err = s.server.after(prefix, after)
				if err != nil || len(changes) > 0 {
					return changes, err
				}
			}
			select {
			case <-ctx.Done():
			case <-s.closed:
			case <-changed:
			case <-healed:
			}
		}
	}
}

// over tells why what waits is to end.
func (s *Store) over(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return errClosed
	default:
		return nil
	}
}

// KeepAlive implements [directory.Store]. The ttl is not looked at: the entry is there until
// ctx ends while the store can be reached, or [Server.Drop] is called.
func (s *Store) KeepAlive(ctx context.Context, key string, value []byte, _ time.Duration) error {
	if !s.enter() {
		return fmt.Errorf("keep %s: %w", key, errClosed)
	}
	defer s.keeping.Done()
	for {
		f, healed := s.now(false)
		if err := s.over(ctx); err != nil {
			if f == None {
				s.server.forget(s, key)
			}
			return fmt.Errorf("keep %s: %w", key, err)
		}
		var changed <-chan struct{}
		if f == None {
			changed = s.server.keep(s, key, value)
		}
		select {
		case <-ctx.Done():
		case <-s.closed:
		case <-changed:
		case <-healed:
		}
	}
}

// enter counts one more KeepAlive, unless the store is closed.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.keeping.Add(1)
	}
	return !s.ended
}

// Close implements [directory.Store].
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.ended {
		s.ended = true
		close(s.closed)
	}
	s.mu.Unlock()
	s.keeping.Wait()
	return nil
}
