package output

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/event"
)

// Event is what events prints of each event, as a document of its own.
type Event struct {
	Schema
	Number      uint64    `json:"number,omitempty"` // counts the events of one daemon
	At          time.Time `json:"at"`
	Type        string    `json:"type"`
	App         string    `json:"app,omitempty"`
	Template    string    `json:"template,omitempty"`
	Snapshot    string    `json:"snapshot,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Operation   string    `json:"operation,omitempty"`
	OperationID uint64    `json:"operation_id,omitempty"`
	WithinID    uint64    `json:"within_id,omitempty"` // of the operation that it is a part of
	Step        string    `json:"step,omitempty"`
	Ended       *EventEnd `json:"ended,omitempty"`
	Missed      uint64    `json:"missed,omitempty"` // events that did not come
}

// EventEnd is how an operation ended.
type EventEnd struct {
	Complete bool             `json:"complete"` // false if it failed
	Error    string           `json:"error,omitempty"`
	TookUS   int64            `json:"took_us"`
	FrozenUS int64            `json:"frozen_us,omitempty"` // how long no process ran
	StepsUS  map[string]int64 `json:"steps_us,omitempty"`
}

// NewEvent reads the API's message.
func NewEvent(e *api.EventRecord) *Event {
	doc := &Event{
		Schema: schema(), Number: e.GetNumber(), At: utc(e.GetAt()), Type: e.GetType(), App: e.GetApp(), Template: e.GetTemplate(), Snapshot: e.GetSnapshot(),
		Reason: e.GetReason(), Operation: e.GetOperation(), OperationID: e.GetOperationId(), WithinID: e.GetWithinId(), Step: e.GetStep(), Missed: e.GetMissed(),
	}
	if doc.Type == string(event.Ended) {
		doc.Ended = &EventEnd{Complete: e.GetError() == "", Error: e.GetError(), TookUS: e.GetTookUs(), FrozenUS: e.GetFrozenUs(), StepsUS: e.GetStepsUs()}
	}
	return doc
}

// Table implements [Document]: an event is one line.
func (d *Event) Table(t *Table) {
	t.Line(d.At.Format("2006-01-02T15:04:05.000Z07:00") + "  " + d.text())
}

// text says in words what happened.
func (d *Event) text() string {
	var about []string
	if d.App != "" {
		about = append(about, d.App)
	}
	if d.Template != "" {
		about = append(about, "template "+d.Template)
	}
	if d.Snapshot != "" {
		about = append(about, "snapshot "+d.Snapshot)
	}
	whom := cmp.Or(strings.Join(about, ", "), "snapctld")
	why := ""
	if d.Reason != "" {
		why = ": " + d.Reason
	}
	switch event.Type(d.Type) { //nolint:exhaustive // the others say it by their names
	case event.Begun:
		return whom + ": " + d.Operation + " begun" + why
	case event.Step:
		return whom + ": " + d.Operation + ": " + d.Step
	case event.Ended:
		return whom + ": " + d.Operation + " " + d.Ended.text()
	case event.Missed:
		return fmt.Sprintf("%s missed: snapctl was too slow", plural(int(d.Missed), "event"))
	default:
		return whom + ": " + d.Type + why
	}
}

func (e *EventEnd) text() string {
	took := Took(time.Duration(e.TookUS) * time.Microsecond)
	switch {
	case !e.Complete:
		return "failed after " + took + ": " + e.Error
	case e.FrozenUS > 0:
		return "done in " + took + ", frozen " + Took(time.Duration(e.FrozenUS)*time.Microsecond)
	default:
		return "done in " + took
	}
}
