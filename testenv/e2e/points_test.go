package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/snapctl/snapctl/runtime/daemon"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
)

// points are the fault points of what the daemon of one host does alone.
func points() []fault.Name {
	return slices.DeleteFunc(journal.Points(daemon.Operations()), isOfMove)
}

// movePoints are those of a move, on either host.
func movePoints() []fault.Name {
	return slices.DeleteFunc(journal.Points(daemon.Operations()), func(name fault.Name) bool { return !isOfMove(name) })
}

func isOfMove(name fault.Name) bool {
	op := event.Kind(operationOf(name))
	return op == event.Migrate || op == event.Arrive
}

// somePoints draws a third of fault points, or takes all if [Rounds] is set.
func somePoints(t *testing.T, all []fault.Name) []fault.Name {
	t.Helper()
	if os.Getenv(Rounds) != "" {
		return all
	}
	seeded(t).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:(len(all)+2)/3]
}

// operationOf is the operation that has a point.
func operationOf(name fault.Name) string {
	op, _, _ := strings.Cut(string(name), ".")
	return op
}

// committed tells whether the operation of a point is finished that is broken there, by its own
// table. If it is part of another one, that may be undone all the same: part tells.
func committed(name fault.Name) (yes, part bool) {
	op, step, _ := strings.Cut(string(name), ".")
	for _, t := range daemon.Operations() {
		if t.Name == op {
			return t.IsCommitted(step), t.Part
		}
	}
	return false, false
}
