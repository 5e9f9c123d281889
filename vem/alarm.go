package vem

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/wake"
)

// Cause waits for something that wakes an app, and tells what it was.
type Cause func(ctx context.Context) (by string, err error)

// Alarm says what wakes a held app.
type Alarm struct {
	// NetPath is where the app's network namespace is bound.
	NetPath string
	// Policy says which traffic wakes. What it says of timers is the caller's business.
	Policy wake.Policy
	// Others are what may wake besides traffic.
	Others []Cause
	// Wake is called once, when the first of all has come, with what it was. It does not
	// wait for Disarm, which waits for it.
	Wake func(ctx context.Context, by string)
	// Fail is told that one of them can't come any more.
	Fail func(ctx context.Context, err error)
}

// watch is the wait for what wakes an app. There are as many of them as apps that sleep, and each is
// one goroutine.
type watch struct {
	quit chan context.CancelFunc // has one, which ends it
	done chan struct{}
}

// Arm makes a held endpoint's listeners patient and waits for what wakes the app, until
// Disarm. After a failed wake it first pauses, see WakeFailed. Arming again does nothing.
func (e *Endpoint) Arm(a Alarm) error {
	if e.watching() {
		return nil
	}
	set := e.Held()
	if set != nil {
		if err := errors.Join(set.Widen(), set.Arm()); err != nil {
			return err
		}
	}
	causes := a.Others
	if set != nil && a.Policy.Mode != wake.Never {
		traffic := func(ctx context.Context) (string, error) { return awaitTraffic(ctx, set, a) }
		causes = append([]Cause{traffic}, causes...)
	}
	if len(causes) == 0 {
		return nil
	}
	w, rest := e.startWatch()
	e.m.opt.Run(func(ctx context.Context) {
		defer close(w.done)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w.quit <- cancel
		if !pause.For(ctx, rest, nil) {
			return
		}
		if by := awaitFirst(ctx, causes, a.Fail); by != "" {
			a.Wake(ctx, by)
		}
	})
	return nil
}

func (e *Endpoint) watching() bool {
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	return e.holding.watch != nil
}

func (e *Endpoint) startWatch() (w *watch, rest time.Duration) {
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	w = &watch{quit: make(chan context.CancelFunc, 1), done: make(chan struct{})}
	e.holding.watch = w
	return w, e.holding.failures.pause()
}

// Disarm ends the wait and gives the listeners their own settings back.
func (e *Endpoint) Disarm() error {
	e.holding.mu.Lock()
	w, set := e.holding.watch, e.holding.held
	e.holding.watch = nil
	e.holding.mu.Unlock()
	if w != nil {
		(<-w.quit)()
		<-w.done
	}
	if set != nil {
		return set.Disarm()
	}
	return nil
}

// WakeFailed notes that the app could not be woken by what it waited for: the same data still
// waits, and would wake it at once, so the next Arm pauses, longer each time until Release.
func (e *Endpoint) WakeFailed() {
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	e.holding.failures++
}

// AwaitTraffic waits for the first traffic for what the endpoint holds that a policy lets wake its
// app, and returns what it was. It changes nothing, so it is for an app that is not asleep yet. It
// has to end before the endpoint is released: it does when ctx does.
func (e *Endpoint) AwaitTraffic(ctx context.Context, netPath string, p wake.Policy) (by string, err error) {
	set := e.Held()
	if set == nil || p.Mode == wake.Never {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return awaitTraffic(ctx, set, Alarm{NetPath: netPath, Policy: p})
}

// awaitTraffic waits for the first traffic that the policy lets through.
func awaitTraffic(ctx context.Context, set *hold.Set, a Alarm) (string, error) {
	ns, err := netns.Open(a.NetPath)
	if err != nil {
		return "", err
	}
	defer ns.Close() //nolint:errcheck // a handle
	event, err := wake.Watch(ctx, set, a.Policy, ns)
	if err != nil {
		return "", err
	}
	return event.Reason.String(), nil
}

// awaitFirst waits for the first of several causes. It returns nothing if ctx ends first, or
// none of them can come any more, which fail is told.
func awaitFirst(ctx context.Context, causes []Cause, fail func(context.Context, error)) (first string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // guards first
	await := func(c Cause) {
		by, err := c(ctx)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil && first == "":
			first = by
			cancel()
		case err != nil && ctx.Err() == nil:
			fail(ctx, err)
		}
	}
	var others sync.WaitGroup
	for _, c := range causes[1:] {
		others.Go(func() { await(c) })
	}
	await(causes[0])
	others.Wait() // all end before what they wait on is closed
	return first
}

// failures counts how often in a row an app could not be woken by what it waits for.
type failures int

// pause is how long to wait before something may wake it again.
func (f failures) pause() time.Duration {
	if f == 0 {
		return 0
	}
	return min(time.Second<<min(int(f), 10), time.Minute)
}
