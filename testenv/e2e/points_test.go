package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/snapctl/snapctl/runtime/daemon"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
)

// points are all fault points of the daemon.
func points() []fault.Name { return journal.Points(daemon.Operations()) }

// somePoints draws a third of the fault points, or takes all if [Rounds] is set.
func somePoints(t *testing.T) []fault.Name {
	t.Helper()
	all := points()
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
