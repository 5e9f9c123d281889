package omit_test

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/criu/omit"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/testenv/leak"
)

// Of each process its own pages are left out, whether they share them with the other one or not; and
// the processes go on, or end, as they would without us.
func TestLeaveOutOfTree(t *testing.T) {
	leak.Check(t)
	busy(t)
	a := start(t, "fork", "1", "600", "5000", "9000")
	qt.Assert(t, qt.Not(qt.Equals(a.child, 0)))
	all := a.saveAll()
	qt.Assert(t, qt.HasLen(all, 2))
	for _, end := range []bool{false, true} {
		pages := make(map[int][]image.Extent)
		for _, area := range a.areas {
			pages[a.pid] = append(pages[a.pid], some(area)...)
			pages[a.child] = append(pages[a.child], some(area)...)
		}
		args := []string{"--leave-running"}
		if end {
			args = nil
		}
		want := a.saveAll()
		without(want, pages)
		same(t, a.save(pages, args...), want)
		if !end {
			a.check()
		}
	}
	var exit *exec.ExitError
	qt.Assert(t, qt.ErrorAs(a.cmd.Wait(), &exit))
	qt.Check(t, qt.Equals(exit.Sys().(syscall.WaitStatus).Signal(), syscall.SIGKILL))
}

// CRIU may be the child of a script, which is what has been started then.
func TestScript(t *testing.T) {
	leak.Check(t)
	a := start(t, "300")
	want := a.saveAll()
	pages := map[int][]image.Extent{a.pid: a.areas}
	without(want, pages)
	a.run = `"$@"; exit $?`
	same(t, a.save(pages, "--leave-running"), want)
}

// busy keeps all processors busy as long as the test goes on.
func busy(t *testing.T) {
	t.Helper()
	for range 2 {
		spin := exec.Command("sh", "-c", "while :; do :; done")
		qt.Assert(t, qt.IsNil(spin.Start()))
		t.Cleanup(func() {
			_ = spin.Process.Kill()
			_ = spin.Wait()
		})
	}
}

// CRIU gets more pieces than it has room for, in several answers.
func TestMoreThanFits(t *testing.T) {
	leak.Check(t)
	const pages = 2*(1<<15) + 1000 // of which every other one is a region for itself
	a := start(t, fmt.Sprint(pages))
	all := a.saveAll()
	runs := map[int][]image.Extent{a.pid: each(a.areas[0], 1, 2)}
	without(all, runs)
	same(t, a.save(runs, "--leave-running"), all)
	a.check()
}

// Check tells of a page that CRIU has not come across: what its owner has of it is not what is there now.
func TestPageThatIsNotThere(t *testing.T) {
	leak.Check(t)
	a := start(t, "100", "200")
	last := a.areas[1]
	beyond := image.Extent{Start: 1 << 46, Pages: 3} // where nothing is mapped
	qt.Assert(t, qt.IsTrue(beyond.Start < last.Start))
	pages := map[int][]image.Extent{a.pid: {beyond, last}}
	d := a.prepare("--leave-running")
	o, err := omit.Start(d.cmd.Process.Pid, pages)
	qt.Assert(t, qt.IsNil(err))
	all := last.Pages + beyond.Pages
	qt.Check(t, qt.ErrorMatches(o.Check(), fmt.Sprintf("CRIU did not come across %d of %[1]d pages .*", all)))
	qt.Assert(t, qt.IsNil(d.run()))
	qt.Check(t, qt.Equals(o.Pages(), last.Pages))
	qt.Check(t, qt.ErrorMatches(o.Check(), fmt.Sprintf("CRIU did not come across 3 of %d pages of process %d .* the first at 0x400000000000", all, a.pid)))
	qt.Assert(t, qt.IsNil(o.Close()))
	qt.Assert(t, qt.IsNil(o.Close()))
	a.check()
}
