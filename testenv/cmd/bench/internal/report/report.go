// Package report collects what was measured and tells it: [Row] by row, as a table, and as JSON. A
// [Comparison] is of what two commits have measured by turns.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// Row is one measured comparison.
type Row struct {
	Name      string  `json:"name"`
	Unit      string  `json:"unit"`
	Ours      float64 `json:"ours"`
	Other     float64 `json:"other"`      // 0: nothing to compare with
	OtherName string  `json:"other_name"` // what was measured beside it
	Ratio     float64 `json:"ratio"`      // ours by other; 0 without other
	// Goal bounds the ratio from above, or from below if it is negative; with
	// GoalOn "ours" or "extra" it bounds ours, or ours less other. 0: none.
	Goal   float64 `json:"goal"`
	GoalOn string  `json:"goal_on,omitempty"`
	OK     bool    `json:"ok"` // the goal is met, or there is none
}

// Report collects rows.
type Report struct {
	Out  io.Writer
	rows []Row
}

// Add judges a row and tells it.
func (r *Report) Add(row Row) {
	if row.Other != 0 {
		row.Ratio = row.Ours / row.Other
	}
	value := row.Ratio
	switch row.GoalOn {
	case "ours":
		value = row.Ours
	case "extra":
		value = row.Ours - row.Other
	}
	row.OK = row.Goal == 0 || row.Goal > 0 && value <= row.Goal || row.Goal < 0 && value >= -row.Goal
	r.rows = append(r.rows, row)
	fmt.Fprintf(r.Out, "%s: %.3g %s, %s %.3g\n", row.Name, row.Ours, row.Unit, row.OtherName, row.Other)
}

// Table tells all rows.
func (r *Report) Table() {
	w := tabwriter.NewWriter(r.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nNAME\tUNIT\tOURS\tOTHER\tWHAT\tRATIO\tGOAL\tOK")
	for _, row := range r.rows {
		goal := "-"
		if row.Goal != 0 {
			sign := "<="
			if row.Goal < 0 {
				sign = ">="
			}
			goal = fmt.Sprintf("%s %s %.3g", row.goalOn(), sign, max(row.Goal, -row.Goal))
		}
		fmt.Fprintf(w, "%s\t%s\t%.3g\t%.3g\t%s\t%.3g\t%s\t%v\n", row.Name, row.Unit, row.Ours, row.Other, row.OtherName, row.Ratio, goal, row.OK)
	}
	_ = w.Flush() // to the terminal
}

func (row Row) goalOn() string {
	if row.GoalOn == "" {
		return "ratio"
	}
	return row.GoalOn
}

// Missed are the names of the rows whose goals were missed.
func (r *Report) Missed() []string {
	var names []string
	for _, row := range r.rows {
		if !row.OK {
			names = append(names, row.Name)
		}
	}
	return names
}

// Write writes the rows to a file, as JSON.
func (r *Report) Write(path string) error {
	b, err := json.MarshalIndent(r.rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Median is the middle value, or 0 of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return v[len(v)/2]
}

// Percentile is the smallest value that p percent of the values do not exceed.
func Percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return v[min(len(v)-1, len(v)*p/100)]
}
