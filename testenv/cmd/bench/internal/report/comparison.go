package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// compared is what two commits have measured of one row, in order.
type compared struct {
	Name  string    `json:"name"`
	Unit  string    `json:"unit"`
	Ours  []float64 `json:"ours"`
	Other []float64 `json:"other"`
	// Ratio is that of the medians, ours by other; 0 if one has measured nothing.
	Ratio float64 `json:"ratio"`
	// Differs is true if the middle halves of both do not touch: else the difference is
	// less than what each differs from itself.
	Differs bool `json:"differs"`
}

// Comparison collects what two commits measure.
type Comparison struct {
	Out  io.Writer
	rows []*compared
}

// Add adds what one of them, 0 or 1, has measured in a turn.
func (c *Comparison) Add(which int, rows []Row) {
	for _, row := range rows {
		to := c.row(row)
		if which == 0 {
			to.Ours = append(to.Ours, row.Ours)
		} else {
			to.Other = append(to.Other, row.Ours)
		}
		to.judge()
	}
}

func (c *Comparison) row(row Row) *compared {
	for _, r := range c.rows {
		if r.Name == row.Name {
			return r
		}
	}
	r := &compared{Name: row.Name, Unit: row.Unit}
	c.rows = append(c.rows, r)
	return r
}

// Has tells whether rows of a benchmark are there.
func (c *Comparison) Has(name string) bool {
	for _, r := range c.rows {
		if r.of(name) {
			return true
		}
	}
	return false
}

func (r *compared) of(name string) bool {
	return r.Name == name || strings.HasPrefix(r.Name, strings.TrimSuffix(name, "/")+"/")
}

func (r *compared) judge() {
	if len(r.Ours) == 0 || len(r.Other) == 0 {
		return
	}
	if m := Median(r.Other); m != 0 {
		r.Ratio = Median(r.Ours) / m
	}
	low, high := quartiles(r.Ours)
	otherLow, otherHigh := quartiles(r.Other)
	r.Differs = low > otherHigh || otherLow > high
}

// quartiles are the ends of the middle half of some values.
func quartiles(values []float64) (low, high float64) {
	return Percentile(values, 25), Percentile(values, 75)
}

func (r *compared) judgement() string {
	switch {
	case len(r.Ours) == 0:
		return "only the other has it"
	case len(r.Other) == 0:
		return "only this tree has it"
	case len(r.Ours) < 3 || len(r.Other) < 3:
		return "too few turns to tell"
	case !r.Differs:
		return "within the noise"
	case r.Ratio > 1 == strings.HasSuffix(r.Unit, "/s"):
		return "better"
	default:
		return "worse"
	}
}

func (r *compared) String() string {
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%.3g\t%s", r.Name, r.Unit, spread(r.Ours), spread(r.Other), r.Ratio, r.judgement())
}

// spread is the median of values, and their middle half.
func spread(values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	low, high := quartiles(values)
	return fmt.Sprintf("%.3g (%.3g-%.3g)", Median(values), low, high)
}

// Tell tells what was measured of a benchmark.
func (c *Comparison) Tell(name string) {
	for _, r := range c.rows {
		if r.of(name) {
			fmt.Fprintln(c.Out, strings.ReplaceAll(r.String(), "\t", "  "))
		}
	}
}

// Table tells all that was measured.
func (c *Comparison) Table(commit string) {
	fmt.Fprintf(c.Out, "\nMedian of the turns, and their middle half in brackets; RATIO is this tree by %s.\n", commit)
	w := tabwriter.NewWriter(c.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tUNIT\tTHIS TREE\tOTHER\tRATIO\t")
	for _, r := range c.rows {
		fmt.Fprintln(w, r)
	}
	_ = w.Flush() // to the terminal
}

// Write writes the rows to a file, as JSON.
func (c *Comparison) Write(path string) error {
	b, err := json.MarshalIndent(c.rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
