package output

import (
	"fmt"
	"time"

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
	return TraceStep{Name: s.GetName(), Status: s.GetStatus(), Found: s.GetFound(), Remedy: s.GetRemedy(), TookUs: microseconds(s.GetTook())}
}

// Table implements [Document], for those that are shown while others are under way.
func (s TraceStep) Table(t *Table) {
	t.Line(fmt.Sprintf("%-8s %-10s %10s   %s", s.Status, s.Name, Took(time.Duration(s.TookUs)*time.Microsecond), s.Found))
	if s.Status == "warning" && s.Remedy != "" {
		t.Line(fmt.Sprintf("%-30s   %s", "", "-> "+s.Remedy))
	}
}

// Trace is what vem trace prints.
type Trace struct {
	Schema
	OK    bool        `json:"ok"` // no step failed
	Steps []TraceStep `json:"steps"`
}

// NewTrace reads the API's messages.
func NewTrace(steps []*api.TraceStep) *Trace {
	t := &Trace{Schema: schema(), OK: true, Steps: convert(steps, NewTraceStep)}
	for _, s := range t.Steps {
		t.OK = t.OK && s.Status != CheckFailed
	}
	return t
}

// Table implements [Document].
func (d *Trace) Table(t *Table) {
	for _, s := range d.Steps {
		s.Table(t)
	}
}
