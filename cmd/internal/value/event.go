package value

import (
	"fmt"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/event"
)

// Moment is a point in time, which may be relative to now.
type Moment func(now time.Time) time.Time

// ParseMoment reads a time in RFC 3339, or how long ago it was: "10m".
func ParseMoment(text string) (Moment, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return func(now time.Time) time.Time { return now.Add(-ago) }, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, fmt.Errorf("%q is neither a time such as 2026-01-02T15:04:05Z nor a duration such as 10m", text)
	}
	return func(time.Time) time.Time { return at }, nil
}

// EventFilter adds one filter to a request for events.
type EventFilter func(*api.EventsRequest)

// ParseEventFilter reads a filter of events: "app=NAME", "type=TYPE" or "operation=KIND".
func ParseEventFilter(text string) (EventFilter, error) {
	key, word, ok := strings.Cut(text, "=")
	if !ok || word == "" {
		return nil, fmt.Errorf("%q is not KEY=VALUE, such as app=cache", text)
	}
	switch key {
	case "app":
		return func(r *api.EventsRequest) { r.Apps = append(r.Apps, word) }, nil
	case "type":
		_, err := Word(event.Types()...)(word)
		return func(r *api.EventsRequest) { r.Types = append(r.Types, word) }, err
	case "operation":
		_, err := Word(event.Kinds()...)(word)
		return func(r *api.EventsRequest) { r.Operations = append(r.Operations, word) }, err
	default:
		return nil, fmt.Errorf("there is no filter %q: use app, type or operation", key)
	}
}

// CompleteEventFilter lists how a filter of events that begins with typed may go on. apps
// asks for the names of apps.
func CompleteEventFilter(typed string, apps func() []string) []string {
	key, _, _ := strings.Cut(typed, "=")
	switch key {
	case "type":
		return after("type=", event.Types())
	case "operation":
		return after("operation=", event.Kinds())
	case "app":
		return after("app=", apps())
	default:
		return []string{"app=", "type=", "operation="}
	}
}

func after[T ~string](prefix string, words []T) []string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = prefix + string(w)
	}
	return all
}
