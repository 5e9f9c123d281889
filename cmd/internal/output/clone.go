package output

import (
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// NewClone reads the API's message of a clone that was made. Connections that
// were reset are as the rules of the template say, and no loss.
func NewClone(r *api.CloneResult) Result {
	res := NewResult(Clone, r.GetName(), &api.Result{App: r.GetApp(), TotalUs: r.GetTotalUs(), StepsUs: r.GetStepsUs(), Sockets: r.GetSockets(), Notes: r.GetNotes(), Host: r.GetHost()})
	res.FromPool = r.GetFromPool()
	res.Complete = true
	for _, s := range res.Sockets {
		res.Complete = res.Complete && s.Outcome != "unsupported"
	}
	return res
}

// count is how many sockets had an outcome.
func (r Result) count(outcome string) int {
	n := 0
	for _, s := range r.Sockets {
		if s.Outcome == outcome {
			n++
		}
	}
	return n
}

// Clones is what clone prints.
type Clones struct {
	Schema
	Template string    `json:"template"`
	TotalUS  int64     `json:"total_us,omitempty"` // for all of them
	Results  []Result  `json:"results"`
	Failures []Failure `json:"failures"`
	Notes    []string  `json:"notes,omitempty"` // hosts that make none, and why
}

// NewClones collects clones and failures.
func NewClones(template string, total time.Duration, results []Result, failures []Failure, notes ...string) *Clones {
	return &Clones{Schema: schema(), Template: template, TotalUS: total.Microseconds(), Results: list(results), Failures: list(failures), Notes: notes}
}

// Table implements [Document]. It is the last line: each clone was printed when
// it was done.
func (d *Clones) Table(t *Table) {
	if len(d.Results)+len(d.Failures) > 1 && len(d.Results) > 0 {
		t.Line(fmt.Sprintf("%s of %s in %s", plural(len(d.Results), "clone"), d.Template, Took(time.Duration(d.TotalUS)*time.Microsecond)))
	}
}
