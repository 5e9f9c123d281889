package output

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Table writes text for people: lines, fields and columns.
type Table struct {
	out *bytes.Buffer // a write to it does not fail
	now time.Time
}

// Line writes one line.
func (t *Table) Line(text string) { fmt.Fprintln(t.out, Clean(text)) }

// Rows writes columns under their heads.
func (t *Table) Rows(head []string, rows [][]string) {
	t.align(append([][]string{head}, rows...))
}

// Field is a name and its value.
type Field struct{ Name, Value string }

// Fields writes fields below each other, without those that have no value.
func (t *Table) Fields(fields []Field) {
	var rows [][]string
	for _, f := range fields {
		if f.Value != "" {
			rows = append(rows, []string{f.Name + ":", f.Value})
		}
	}
	t.align(rows)
}

func (t *Table) align(rows [][]string) {
	w := tabwriter.NewWriter(t.out, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		cells := convert(row, func(s string) string {
			if s == "" {
				return "-"
			}
			return Clean(s)
		})
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // into a buffer
}
