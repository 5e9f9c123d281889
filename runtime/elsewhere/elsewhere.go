// Package elsewhere has apps be woken on other hosts that traffic is to wake, if their records say so: the app moves
// there as it sleeps, and is woken there. What has come for it meanwhile moves with it, or waits.
package elsewhere

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/move"
)

// Mover moves apps, as [move.Mover] does.
type Mover interface {
	Migrate(ctx context.Context, a *engine.App, req move.Request) (*move.Report, error)
}

// Waker has apps be woken on other hosts. All exported fields are required.
type Waker struct {
	Mover  Mover
	Self   func() string // this host's name; "": it is in no installation
	Events *event.Bus
	Log    *slog.Logger
	// Roomiest returns the host with most memory available; see package afar.
	Roomiest func(ctx context.Context) (string, error)

	mu    sync.Mutex
	tried map[string]*attempt // by the app's name
}

// attempt is one to wake an app elsewhere. There is one each time that it sleeps: what wakes it is looked for again when
// its move has failed, and is there still.
type attempt struct {
	since time.Time     // when the app fell asleep
	done  chan struct{} // closed when it is over; what follows is known then
	left  bool
	notes []app.Note
}

// Wake is as [engine.Options.Elsewhere] wants it. If an app is refused, or its move fails, it stays, and is told why.
func (w *Waker) Wake(ctx context.Context, a *engine.App) (left bool, notes []app.Note) {
	rec, _ := a.Read()
	try, first := w.begin(rec.Name, rec.StatusAt)
	if first {
		try.left, try.notes = w.move(ctx, a, &rec)
		close(try.done)
	}
	select {
	case <-try.done:
	case <-ctx.Done():
		return false, nil
	}
	if try.left {
		w.forget(rec.Name, try)
	}
	return try.left, try.notes
}

// begin returns the attempt to wake an app that has slept since then, and whether it is the caller's.
func (w *Waker) begin(name string, since time.Time) (try *attempt, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if try = w.tried[name]; try != nil && try.since.Equal(since) {
		return try, false
	}
	if w.tried == nil {
		w.tried = make(map[string]*attempt)
	}
	try = &attempt{since: since, done: make(chan struct{})}
	w.tried[name] = try
	return try, true
}

func (w *Waker) forget(name string, try *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tried[name] == try {
		delete(w.tried, name)
	}
}

// move moves an app to where it is to be woken.
func (w *Waker) move(ctx context.Context, a *engine.App, rec *app.Record) (left bool, notes []app.Note) {
	self := w.Self()
	if rec.WakeElsewhere == self {
		return false, nil
	}
	if self == "" {
		return false, []app.Note{stays(rec.WakeElsewhere, errors.New("this host is in no installation"))}
	}
	ctx, cancel := context.WithTimeout(ctx, engine.DefaultTimeout)
	defer cancel()
	host := rec.WakeElsewhere
	if host == app.AnyHost {
		var err error
		if host, err = w.Roomiest(ctx); err != nil {
			return false, []app.Note{stays(app.AnyHost, err)}
		}
		if host == self {
			return false, nil
		}
	}
	op := w.Events.Begin(event.Migrate, event.About{App: rec.Name, Reason: "to host " + host + ", to be woken there"})
	r, err := w.Mover.Migrate(ctx, a, move.Request{To: host, Wake: true, Op: op})
	op.End(err)
	if err != nil {
		return false, []app.Note{stays(host, err)}
	}
	if r.Trouble != "" {
		w.Log.WarnContext(ctx, "an app has moved to be woken", slog.String("app", rec.Name), slog.String("host", host), slog.String("trouble", r.Trouble))
	}
	return true, nil
}

// stays is the note of an app that was woken here instead.
func stays(host string, why error) app.Note {
	n := app.Note{Text: fmt.Sprintf("it was to be woken on host %s, and was woken here: %v", host, why)}
	if host == app.AnyHost {
		n.Text = fmt.Sprintf("it was to be woken on any host, and was woken here: %v", why)
	}
	if e, ok := errors.AsType[*move.Error](why); ok {
		n.Text = fmt.Sprintf("it was to be woken on host %s, and was woken here: %v", host, e.Err)
		n.Remedy = e.Remedy()
	}
	return n
}
