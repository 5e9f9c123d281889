package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/event"
)

func TestFilterOfEvents(t *testing.T) {
	since := time.Unix(1000, 0).UTC()
	f, err := eventFilter(&api.EventsRequest{Apps: []string{"cache"}, Operations: []string{"wake"}, Since: timestamppb.New(since)})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(f.Apps, []string{"cache"}))
	qt.Check(t, qt.DeepEquals(f.Kinds, []event.Kind{event.Wake}))
	qt.Check(t, qt.IsTrue(f.Since.Equal(since)))
	qt.Check(t, qt.Not(qt.SliceContains(f.Types, event.Step))) // unless they are asked for
	f, err = eventFilter(&api.EventsRequest{Steps: true})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.SliceContains(f.Types, event.Step))
	for _, req := range []*api.EventsRequest{{Operations: []string{"dance"}}, {Types: []string{"rain"}}} {
		_, err := eventFilter(req)
		qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	}
}

func TestEventIsShown(t *testing.T) {
	shown := showEvent(&event.Event{
		Number: 7, Type: event.Ended, About: event.About{App: "cache", Reason: "idle"}, Operation: 3, Kind: event.Hibernate,
		Took: time.Second, Frozen: time.Millisecond, Steps: map[string]time.Duration{"dump": 2 * time.Millisecond}, Err: errors.New("no room"),
	})
	qt.Check(t, qt.Equals(shown.GetNumber(), uint64(7)))
	qt.Check(t, qt.Equals(shown.GetType(), "ended"))
	qt.Check(t, qt.Equals(shown.GetOperation(), "hibernate"))
	qt.Check(t, qt.Equals(shown.GetTookUs(), int64(1_000_000)))
	qt.Check(t, qt.Equals(shown.GetFrozenUs(), int64(1000)))
	qt.Check(t, qt.DeepEquals(shown.GetStepsUs(), map[string]int64{"dump": 2000}))
	qt.Check(t, qt.Equals(shown.GetError(), "no room"))
}

// TestStreamOfEvents proves that without --follow the recent events are told, and that with it the
// new ones follow them without a gap.
func TestStreamOfEvents(t *testing.T) {
	w := begin(t)
	op := w.events.Begin(event.Wake, event.About{App: "cache"})
	op.Step("restore")
	op.End(nil)
	w.events.Emit(event.Exited, event.About{App: "web", Reason: "exit code 1"})
	var got []string
	note := func(e *api.EventRecord) { got = append(got, e.GetType()+" "+e.GetApp()) }
	tell := func(e *api.EventRecord) error { note(e); return nil }
	qt.Assert(t, qt.IsNil(w.Events(t.Context(), &api.EventsRequest{}, tell)))
	qt.Check(t, qt.DeepEquals(got, []string{"begun cache", "ended cache", "exited web"}))
	got = nil
	qt.Assert(t, qt.IsNil(w.Events(t.Context(), &api.EventsRequest{Apps: []string{"cache"}, Types: []string{"ended", "exited"}}, tell)))
	qt.Check(t, qt.DeepEquals(got, []string{"ended cache"}))

	enough := errors.New("enough")
	got = nil
	err := w.Events(t.Context(), &api.EventsRequest{Follow: true, Types: []string{"exited"}}, func(e *api.EventRecord) error {
		note(e)
		if len(got) == 3 {
			return enough
		}
		w.events.Emit(event.Exited, event.About{App: "more"})
		return nil
	})
	qt.Check(t, qt.ErrorIs(err, enough))
	qt.Check(t, qt.DeepEquals(got, []string{"exited web", "exited more", "exited more"}))

	err = w.Events(t.Context(), &api.EventsRequest{Types: []string{"rain"}}, tell)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	qt.Check(t, qt.ErrorMatches(err, `type "rain": .*no event has it`))
}

// TestEndOfAStreamOfEvents proves that a stream that is followed ends with its client.
func TestEndOfAStreamOfEvents(t *testing.T) {
	w := begin(t)
	w.events.Emit(event.Refilled, event.About{})
	ctx, cancel := context.WithCancel(t.Context())
	err := w.Events(ctx, &api.EventsRequest{Follow: true}, func(*api.EventRecord) error { cancel(); return nil })
	qt.Check(t, qt.ErrorIs(err, context.Canceled))
}
