package inject_test

import (
	"os"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/inject"
)

// Nothing of a tracer is left in this process, whether it could stop processes or not. The process is
// in a user namespace.
func TestNothingLeftOpen(t *testing.T) {
	pid := start(t, process(t, "unshare", "--user", "--map-root-user", "sleep", "1000"))
	awaitSleep(t, pid)
	file, err := os.Open(os.DevNull)
	qt.Assert(t, qt.IsNil(err))
	defer file.Close()
	round := func() {
		t.Helper()
		tr := tracer(t)
		qt.Assert(t, qt.IsNil(tr.Stop("", []inject.Target{{PID: pid}})))
		qt.Check(t, qt.IsNil(tr.Install(pid, []*os.File{file}, []inject.Slot{{Number: 50}})))
		refused := tracer(t)
		qt.Check(t, qt.ErrorIs(refused.Stop("", []inject.Target{{PID: pid}}), inject.ErrUnsupported))
		qt.Check(t, qt.IsNil(refused.Close()))
		qt.Check(t, qt.IsNil(tr.Close()))
	}
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		qt.Assert(t, qt.IsNil(err))
		return len(entries)
	}
	round() // what the runtime opens once is open then
	before := open()
	for range 5 {
		round()
	}
	qt.Check(t, qt.Equals(open(), before))
}
