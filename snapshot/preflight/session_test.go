package preflight

import (
	"testing"

	"github.com/go-quicktest/qt"
)

func TestSessions(t *testing.T) {
	// A process is its id, its parent's and its session's; 1 is the app's first.
	type ids struct{ pid, parent, session int }
	tests := map[string]struct {
		processes []ids
		refused   []int
	}{
		"one session":                         {[]ids{{1, 0, 1}, {2, 1, 1}, {3, 2, 1}}, nil},
		"own sessions":                        {[]ids{{1, 0, 1}, {2, 1, 2}, {3, 2, 2}, {4, 3, 4}}, nil},
		"leader gone, child of the first one": {[]ids{{1, 0, 1}, {3, 1, 2}, {4, 1, 2}}, nil},
		"leader gone, below a subreaper":      {[]ids{{1, 0, 1}, {2, 1, 1}, {4, 2, 3}}, []int{4}},
		"leader is no ancestor":               {[]ids{{1, 0, 1}, {2, 1, 1}, {3, 2, 3}, {4, 2, 3}}, []int{4}},
		"forked before and after setsid":      {[]ids{{1, 0, 1}, {2, 1, 2}, {3, 2, 1}, {4, 2, 2}}, nil},
		"two sessions before its own":         {[]ids{{1, 0, 1}, {2, 1, 2}, {5, 2, 5}, {6, 5, 2}, {7, 5, 1}}, []int{7}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := &look{opt: Options{Root: 1}, processes: make(map[int]*process), report: &Report{}}
			for _, p := range tt.processes {
				one := &process{pid: p.pid, inside: p.pid, parent: p.parent, session: p.session}
				l.processes[p.pid], l.order = one, append(l.order, one)
			}
			l.sessions()
			var refused []int
			for _, e := range l.report.Unsupported {
				refused = append(refused, e.PID)
			}
			qt.Assert(t, qt.DeepEquals(refused, tt.refused))
		})
	}
}
