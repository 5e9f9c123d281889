package views

import (
	"fmt"
	"time"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// TraceStep is one step of the way to an endpoint.
type TraceStep struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warning, failed
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
	TookUs int64  `json:"took_us"`
}

// NewTraceStep reads the API's message.
func NewTraceStep(s *api.TraceStep) TraceStep {
	return TraceStep{Name: s.GetName(), Status: s.GetStatus(), Found: s.GetFound(), Remedy: s.GetRemedy(), TookUs: s.GetTook().AsDuration().Microseconds()}
}

// Table implements [output.Document], for those that are shown while others are under way.
func (s TraceStep) Table(t *output.Table) {
	t.Line(fmt.Sprintf("%-8s %-10s %10s   %s", s.Status, s.Name, output.Took(time.Duration(s.TookUs)*time.Microsecond), s.Found))
	if s.Status == "warning" && s.Remedy != "" {
		t.Line(fmt.Sprintf("%-30s   %s", "", "-> "+s.Remedy))
	}
}

// Trace is what vem trace prints.
type Trace struct {
	output.Schema
	OK    bool        `json:"ok"` // no step failed
	Steps []TraceStep `json:"steps"`
}

// NewTrace reads the API's messages.
func NewTrace(steps []*api.TraceStep) *Trace {
	t := &Trace{Schema: output.Schema{Version: output.SchemaVersion}, OK: true, Steps: []TraceStep{}}
	for _, s := range steps {
		t.Steps = append(t.Steps, NewTraceStep(s))
		t.OK = t.OK && s.GetStatus() != output.CheckFailed
	}
	return t
}

// Table implements [output.Document].
func (d *Trace) Table(t *output.Table) {
	for _, s := range d.Steps {
		s.Table(t)
	}
}
