package journal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/runtime/fault"
)

// Keep says how well something is written.
type Keep int

// A daemon that is killed at any moment finds what was written before, or this.
const (
	Nothing     Keep = iota // not written: a new daemon does the same as it would after the step before
	Aside                   // in the run directory, a tmpfs: a busy disk can delay the smallest file by 100 ms
	UntilReboot             // on the disk, without waiting for it
	Forever                 // on the disk, also after a power cut
)

// String says where it is written.
func (k Keep) String() string {
	switch k {
	case Aside:
		return "on a tmpfs"
	case UntilReboot:
		return "until a reboot"
	case Forever:
		return "for ever"
	case Nothing:
	}
	return "-"
}

// Step is a point that an operation comes to. Its name says what has been done by then.
type Step struct {
	Name string
	// Means says in one clause what is there at this point.
	Means string
	Keep  Keep
	// Must has the operation stop if the step can't be written, also if there is no way back:
	// it stays open until that can be done.
	Must bool
	// IfRoom has the operation go on without the step being written, if the disk is full.
	IfRoom bool
	// Then is what the operation does from here on, as users are told; empty if that is
	// told otherwise.
	Then string
	// Doing is as in [Table], from here on; empty if that does not change.
	Doing string
	// Commits marks the first step from which on there is no way back: whatever fails is
	// told, and the operation is finished.
	Commits bool
	// Ends is the lasting status that the record has from here on, or [Same]; empty if the
	// operation goes on. Steps may follow: they have nothing to undo or to finish.
	Ends string
}

// Same is the end of an operation after which the status is what it was before.
const Same = "same"

// Table is what is known of one kind of operation before any of them runs. Fault points, what
// users are told, what a record says, and what becomes of the operation after a crash come
// from it.
type Table struct {
	Name string // also the kind of its events, if it has any
	// Doing is the status that an app is shown with meanwhile; empty for the one that it had.
	Doing string
	// Done is what the operation does to an app, as a participle, for who is refused.
	Done string
	// From are the lasting statuses in which an app must be; an empty one is that of an app
	// that is not there yet. None: any.
	From []string
	// Part is set for an operation that is a part of others, which have no step of theirs on
	// record meanwhile.
	Part  bool
	Steps []Step // in the order in which they are come to; some may be left out
}

// find returns a step of the table, by its name.
func (t *Table) find(step string) (int, error) {
	at := slices.IndexFunc(t.Steps, func(s Step) bool { return s.Name == step })
	if at < 0 {
		return 0, fmt.Errorf("operation %s has no step %q", t.Name, step)
	}
	return at, nil
}

// Point is the fault point at a step.
func (t *Table) Point(step string) fault.Name { return fault.Name(t.Name + "." + step) }

// Points are all fault points of an operation, in order.
func (t *Table) Points() []fault.Name {
	points := make([]fault.Name, len(t.Steps))
	for i, s := range t.Steps {
		points[i] = t.Point(s.Name)
	}
	return points
}

// IsCommitted tells whether there is no way back at a step.
func (t *Table) IsCommitted(step string) bool {
	for _, s := range t.Steps {
		if s.Commits {
			return true
		}
		if s.Name == step {
			break
		}
	}
	return false
}

// Points are the fault points of several kinds of operations.
func Points(tables []Table) []fault.Name {
	var all []fault.Name
	for i := range tables {
		all = append(all, tables[i].Points()...)
	}
	return all
}

// Crashes is a table in Markdown of what becomes of each operation if the daemon dies, or a
// step fails, when it has come to one of its steps.
func Crashes(tables []Table) string {
	var b strings.Builder
	b.WriteString("| operation | undone at | finished at |\n| --- | --- | --- |\n")
	for i := range tables {
		t := &tables[i]
		var undone, finished []string
		for _, s := range t.Steps {
			name := s.Name
			if s.Keep != Nothing {
				name = "**" + name + "**"
			}
			if t.IsCommitted(s.Name) {
				finished = append(finished, name)
			} else {
				undone = append(undone, name)
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", t.Name, orDash(undone), orDash(finished))
	}
	return b.String()
}

func orDash(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}

// List is a table in Markdown of all points, with what is there at each.
func List(tables []Table) string {
	var b strings.Builder
	b.WriteString("| point | what is there | written |\n| --- | --- | --- |\n")
	for i := range tables {
		for _, s := range tables[i].Steps {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", tables[i].Point(s.Name), s.Means, s.Keep)
		}
	}
	return b.String()
}
