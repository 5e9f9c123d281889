package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/pause"
)

const (
	// quiet is after how long without a change a watch looks whether the directory is still the
	// one that it began with.
	quiet = 30 * time.Second
	// watchAgain is the pause before a watch that was broken off is begun again.
	watchAgain = 200 * time.Millisecond
)

// watch is one caller's watch. Only the caller of next uses it.
type watch struct {
	s       *Store
	prefix  string // with that of the store
	next    int64  // the first revision that was not told yet
	cluster uint64 // which the answers come from; 0: none came yet
	waiting [][]directory.Change
	end     error // what all further calls return

	answers clientv3.WatchChan // nil if it is to be begun again
	cancel  context.CancelFunc // of answers
}

// Watch implements [directory.Store].
func (s *Store) Watch(ctx context.Context, prefix string, after int64) func() ([]directory.Change, error) {
	w := &watch{s: s, prefix: s.prefix + prefix, next: after + 1, cancel: func() {}}
	return func() ([]directory.Change, error) {
		changes, err := w.advance(ctx)
		if err != nil {
			w.cancel()
			return nil, fmt.Errorf("watch directory entries %s: %w", prefix, err)
		}
		return changes, nil
	}
}

func (w *watch) advance(ctx context.Context) ([]directory.Change, error) {
	for w.end == nil {
		if len(w.waiting) > 0 {
			first := w.waiting[0]
			w.waiting = w.waiting[1:]
			return first, nil
		}
		w.end = w.step(ctx)
	}
	return nil, w.end
}

// step waits for one answer, and begins the watch before if it has to.
func (w *watch) step(ctx context.Context) error {
	if w.answers == nil {
		w.begin(ctx)
	}
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.s.closed:
		return errClosed
	case <-timer.C:
		return w.check(ctx)
	case r, ok := <-w.answers:
		if ok {
			return w.take(ctx, r)
		}
	}
	// The member lost its leader, or the client gave up.
	w.cancel()
	w.answers = nil
	if !pause.For(ctx, watchAgain, w.s.closed) && ctx.Err() == nil {
		return errClosed
	}
	return ctx.Err()
}

// begin asks for all changes from w.next on. The client goes on by itself after a connection was
// lost; a watch at a member that has lost its leader is broken off, so that another is asked.
// Empty answers tell the client how far it is, lest it asks for a compacted revision later.
func (w *watch) begin(ctx context.Context) {
	inner, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	w.cancel = cancel
	w.answers = w.s.client.Watch(inner, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.next),
		clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
}

// take enters one answer.
func (w *watch) take(ctx context.Context, r clientv3.WatchResponse) error {
	if r.CompactRevision != 0 {
		return fmt.Errorf("%w: only those from revision %d on, not %d", directory.ErrCompacted, r.CompactRevision, w.next)
	}
	if r.Canceled {
		w.cancel()
		w.answers = nil
		switch err := w.s.translate(ctx, r.Err()); {
		case errors.Is(err, directory.ErrUnavailable):
			if !pause.For(ctx, watchAgain, w.s.closed) && ctx.Err() == nil {
				return errClosed
			}
			return ctx.Err()
		default:
			return err
		}
	}
	if w.cluster == 0 {
		w.cluster = r.Header.ClusterId
	}
	if r.Header.ClusterId != w.cluster {
		return fmt.Errorf("%w: it is another cluster now", directory.ErrCompacted)
	}
	w.enter(r.Events)
	switch {
	case r.IsProgressNotify():
		w.next = max(w.next, r.Header.Revision+1)
	case r.Created && r.Header.Revision < w.next-1:
		return w.check(ctx)
	}
	return nil
}

// enter puts changes with those that wait to be told, by revision.
func (w *watch) enter(events []*clientv3.Event) {
	for _, e := range events {
		revision := e.Kv.ModRevision
		last := len(w.waiting) - 1
		if revision < w.next && (last < 0 || w.waiting[last][0].Revision != revision) {
			continue // told before
		}
		c := directory.Change{Entry: w.s.entry(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete}
		if last >= 0 && w.waiting[last][0].Revision == revision {
			w.waiting[last] = append(w.waiting[last], c)
		} else {
			w.waiting = append(w.waiting, []directory.Change{c})
		}
		w.next = revision + 1
	}
}

// check returns an error if the directory is at an earlier revision than the watch: then nothing
// would be told until it has come so far again. A member that only lags behind the others is no
// error, nor is a directory that does not answer.
func (w *watch) check(ctx context.Context) error {
	r, err := w.s.get(ctx, w.s.timeout, w.prefix, clientv3.WithCountOnly())
	switch {
	case errors.Is(err, directory.ErrBehind):
		return err
	case err != nil:
		return ctx.Err()
	case r.Header.Revision < w.next-1:
		return fmt.Errorf("%w: it is at revision %d, and was at %d", directory.ErrBehind, r.Header.Revision, w.next-1)
	default:
		return nil
	}
}
