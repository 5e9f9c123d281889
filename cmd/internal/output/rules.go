package output

import "github.com/snapctl/snapctl/template"

// RulesCheck is what template validate prints.
type RulesCheck struct {
	Schema
	File     string        `json:"file"`
	Valid    bool          `json:"valid"`
	Problems []RuleProblem `json:"problems"`
}

// RuleProblem is one thing that is wrong with rules.
type RuleProblem struct {
	Line   int    `json:"line"`   // from 1
	Column int    `json:"column"` // from 1
	Path   string `json:"path"`   // of the value; may be empty
	Error  string `json:"error"`
}

// NewRulesCheck reads what was found.
func NewRulesCheck(file string, problems template.RuleErrors) *RulesCheck {
	return &RulesCheck{
		Schema: schema(), File: file, Valid: len(problems) == 0,
		Problems: convert(problems, func(p template.RuleError) RuleProblem {
			return RuleProblem{Line: p.Line, Column: p.Column, Path: p.Path, Error: p.Text}
		}),
	}
}

// Table implements [Document]. It leaves out the problems: they are errors.
func (d *RulesCheck) Table(t *Table) {
	if d.Valid {
		t.Line(d.File + ": valid")
	}
}
