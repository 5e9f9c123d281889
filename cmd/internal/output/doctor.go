package output

import "github.com/snapctl/snapctl/runtime/api"

// CheckFailed is the status of a check that failed; the others are "ok" and
// "warning".
const CheckFailed = "failed"

// Check is one thing that snapctl needs, and how it is here.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

// Diagnosis is what doctor prints.
type Diagnosis struct {
	Schema
	OK     bool    `json:"ok"` // no check failed
	Checks []Check `json:"checks"`
}

// NewDiagnosis collects checks.
func NewDiagnosis(checks []Check) *Diagnosis {
	d := &Diagnosis{Schema: schema(), OK: true, Checks: list(checks)}
	for _, c := range checks {
		d.OK = d.OK && c.Status != CheckFailed
	}
	return d
}

// NewChecks reads the API's messages.
func NewChecks(checks []*api.Check) []Check {
	return convert(checks, func(c *api.Check) Check {
		return Check{Name: c.GetName(), Status: c.GetStatus(), Found: c.GetFound(), Remedy: c.GetRemedy()}
	})
}

// Table implements [Document].
func (d *Diagnosis) Table(t *Table) {
	t.Rows([]string{"STATUS", "CHECK", "FOUND"}, convert(d.Checks, func(c Check) []string {
		return []string{c.Status, c.Name, c.Found}
	}))
	blank := false
	for _, c := range d.Checks {
		if c.Remedy != "" {
			if !blank {
				t.Line("")
				blank = true
			}
			t.Line(c.Name + ": " + c.Remedy)
		}
	}
}
