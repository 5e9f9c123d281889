package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
)

// change is an endpoint's change of owner, until all hosts have heard of it.
type change struct {
	owner string
	left  int           // hosts that have not heard of it
	all   chan struct{} // closed when none is left
}

// Times are how long changes of owner took, from when each was due.
type Times struct {
	Made  []time.Duration // until the new owner was in the directory
	Heard []time.Duration // until all hosts knew
	// Failed are changes that could not be made, or that were not heard of by all hosts.
	Failed []error
}

// Change has endpoints change their owners, so many times a minute and for so long: the owner says
// that the endpoint moves, and gives it to another host. A host makes one change after the other;
// one that is late is late from when it was due.
func (f *Fleet) Change(ctx context.Context, perMinute int, long time.Duration) Times {
	var (
		t    Times
		mu   sync.Mutex
		runs sync.WaitGroup
	)
	tick := time.NewTicker(time.Minute / time.Duration(perMinute))
	defer tick.Stop()
	start := time.Now()
	for n := 0; ; n++ {
		due := start.Add(time.Duration(n) * time.Minute / time.Duration(perMinute))
		if due.Sub(start) >= long || ctx.Err() != nil {
			break
		}
		for time.Now().Before(due) {
			<-tick.C
		}
		runs.Go(func() {
			made, heard, err := f.change(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Failed = append(t.Failed, err)
				return
			}
			t.Made, t.Heard = append(t.Made, made.Sub(due)), append(t.Heard, heard.Sub(due))
		})
	}
	runs.Wait()
	return t
}

// change makes the n-th change.
func (f *Fleet) change(ctx context.Context, n int) (made, heard time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var e *directory.Endpoint
	select {
	case e = <-f.free:
		defer func() { f.free <- e }()
	case <-ctx.Done():
		return made, heard, fmt.Errorf("wait for an endpoint: %w", ctx.Err())
	}
	to := f.hosts[n%len(f.hosts)].name
	if to == e.Owner {
		to = f.hosts[(n+1)%len(f.hosts)].name
	}
	c := &change{owner: to, left: len(f.hosts), all: make(chan struct{})}
	f.expect(*e, c)
	defer f.expect(*e, nil)
	next, err := f.owner(e.Owner).give(ctx, *e, to)
	if err != nil {
		return made, heard, err
	}
	*e, made = next, time.Now()
	select {
	case <-c.all:
		return made, time.Now(), nil
	case <-ctx.Done():
		return made, heard, errors.New("not all hosts have heard of a change")
	}
}

// give gives an endpoint to another host.
func (h *Host) give(ctx context.Context, e directory.Endpoint, to string) (directory.Endpoint, error) {
	h.turn.Lock()
	defer h.turn.Unlock()
	e, err := h.session.Update(ctx, e, directory.Moving, to)
	if err != nil {
		return e, err
	}
	return h.session.Transfer(ctx, e, to)
}

func (f *Fleet) owner(name string) *Host {
	for _, h := range f.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// expect says which change of an endpoint is waited for; nil: none any more.
func (f *Fleet) expect(e directory.Endpoint, c *change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c == nil {
		delete(f.pending, e.Addr)
		return
	}
	f.pending[e.Addr] = c
}

// heard is called by each host for each endpoint that it hears of.
func (f *Fleet) heard(now *directory.Endpoint) {
	if now == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.pending[now.Addr]
	if c == nil || now.Owner != c.owner {
		return
	}
	if c.left--; c.left == 0 {
		close(c.all)
	}
}
