package elsewhere

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/move"
)

// mover moves apps, or fails.
type mover struct {
	to  []string
	err error
}

func (m *mover) Migrate(_ context.Context, _ *engine.App, req move.Request) (*move.Report, error) {
	m.to = append(m.to, req.To)
	if m.err != nil || !req.Wake {
		return nil, m.err
	}
	return &move.Report{To: req.To}, nil
}

func TestWake(t *testing.T) {
	refused := &move.Error{App: "cache", To: "beta", Err: errors.New("there is no room")}
	for name, test := range map[string]struct {
		policy, self, roomiest string
		askErr, moveErr        error
		left                   bool
		to                     []string
		note                   string
	}{
		"another host":        {policy: "beta", self: "alpha", left: true, to: []string{"beta"}},
		"this host":           {policy: "alpha", self: "alpha"},
		"any":                 {policy: "any", self: "alpha", roomiest: "gamma", left: true, to: []string{"gamma"}},
		"any is this one":     {policy: "any", self: "alpha", roomiest: "alpha"},
		"nobody answers":      {policy: "any", self: "alpha", askErr: errors.New("no host answers"), note: "it was to be woken on any host, and was woken here: no host answers"},
		"it can't move":       {policy: "beta", self: "alpha", moveErr: refused, to: []string{"beta"}, note: "it was to be woken on host beta, and was woken here: there is no room"},
		"no installation":     {policy: "beta", note: "it was to be woken on host beta, and was woken here: this host is in no installation"},
		"any, and can't move": {policy: "any", self: "alpha", roomiest: "beta", moveErr: refused, to: []string{"beta"}, note: "it was to be woken on host beta, and was woken here: there is no room"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &mover{err: test.moveErr}
			w := &Waker{
				Mover: m, Self: func() string { return test.self }, Events: event.NewBus(nil), Log: slog.New(slog.DiscardHandler),
				Roomiest: func(context.Context) (string, error) { return test.roomiest, test.askErr },
			}
			rec := app.Record{Identity: app.Identity{Name: "cache"}, Policy: app.Policy{WakeElsewhere: test.policy}, State: app.State{Status: app.Held}}
			a := &engine.App{App: app.New(t.TempDir(), t.TempDir(), rec)}
			left, notes := w.Wake(t.Context(), a)
			qt.Check(t, qt.Equals(left, test.left))
			qt.Check(t, qt.DeepEquals(m.to, test.to))
			if !left { // what wakes it comes again while it still sleeps: it is not moved once more
				_, again := w.Wake(t.Context(), a)
				qt.Check(t, qt.DeepEquals(again, notes))
				qt.Check(t, qt.DeepEquals(m.to, test.to))
			}
			if test.note == "" {
				qt.Check(t, qt.HasLen(notes, 0))
				return
			}
			qt.Assert(t, qt.HasLen(notes, 1))
			qt.Check(t, qt.Equals(notes[0].Text, test.note))
		})
	}
}

// An app that has slept again is moved again.
func TestWakeTheNextTime(t *testing.T) {
	m := &mover{err: errors.New("no")}
	w := &Waker{Mover: m, Self: func() string { return "alpha" }, Events: event.NewBus(nil), Log: slog.New(slog.DiscardHandler)}
	rec := app.Record{Identity: app.Identity{Name: "cache"}, Policy: app.Policy{WakeElsewhere: "beta"}, State: app.State{Status: app.Held}}
	a := &engine.App{App: app.New(t.TempDir(), t.TempDir(), rec)}
	for range 2 {
		left, _ := w.Wake(t.Context(), a)
		qt.Check(t, qt.IsFalse(left))
	}
	a.Amend(func(rec *app.Record) { rec.StatusAt = rec.StatusAt.Add(time.Minute) })
	m.err = nil
	left, _ := w.Wake(t.Context(), a)
	qt.Check(t, qt.IsTrue(left))
	qt.Check(t, qt.DeepEquals(m.to, []string{"beta", "beta"}))
	left, _ = w.Wake(t.Context(), a) // it has come back meanwhile
	qt.Check(t, qt.IsTrue(left))
}
