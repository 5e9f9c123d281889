package proc

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestStrangers(t *testing.T) {
	own := []string{"pid:[1]", "net:[1]", "user:[1]", "ipc:[1]", "uts:[1]", "time:[1]", "cgroup:[1]"}
	with := func(at int, link string) []string {
		links := append([]string(nil), own...)
		links[at] = link
		return links
	}
	n := Namespaces{top: 1, links: map[int][]string{1: own, 2: own, 3: with(1, "net:[2]"), 4: with(0, "pid:[2]")}}
	n.links[4][3] = "ipc:[2]" // one is enough
	pids := []int{1, 2, 3, 4}
	qt.Assert(t, qt.Equals(n.Root(), 1))
	qt.Assert(t, qt.DeepEquals(n.Strangers([]int{1, 2}), nil))
	got := n.Strangers(pids)
	qt.Assert(t, qt.HasLen(got, 2))
	qt.Assert(t, qt.Equals(got[0], Stranger{3, "net"}))
	qt.Assert(t, qt.Equals(got[1], Stranger{4, "pid"}))

	n.top = 0
	qt.Assert(t, qt.HasLen(n.Strangers(pids), 0)) // no app with namespaces of its own
}

// The app's first process is the outermost one that is the first of its pid namespace.
func TestNamespacesRoot(t *testing.T) {
	var n Namespaces
	self := os.Getpid()
	n.See(self, Status{pids: []string{"70", "7"}})
	qt.Assert(t, qt.Equals(n.Root(), 0))
	n.See(self, Status{pids: []string{"71", "8", "1"}})
	qt.Assert(t, qt.Equals(n.Root(), self))
	qt.Assert(t, qt.Equals(n.depth, 3))
	n.See(self, Status{pids: []string{"72", "1"}})
	qt.Assert(t, qt.Equals(n.depth, 2))
	qt.Assert(t, qt.HasLen(n.Strangers([]int{self}), 0))
}

func TestReadStatus(t *testing.T) {
	st, err := ReadStatus(os.Getpid())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(st.Tracer, "0"))
	inner, err := InnerPID(os.Getpid())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(inner, os.Getpid()))
}
