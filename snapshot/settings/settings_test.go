package settings_test

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/settings"
	"github.com/snapctl/snapctl/testenv"
)

// sleeper starts a process that does nothing, in a shell's children.
func sleeper(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo ready; read end")
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	t.Cleanup(func() {
		qt.Check(t, qt.IsNil(in.Close()))
		_ = cmd.Wait() // read fails at the end of its input
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(line, "ready\n"))
	return cmd.Process.Pid
}

// What one process was told is saved, survives JSON, and is set for another one.
func TestReadAndApply(t *testing.T) {
	testenv.Need(t, testenv.Root)
	var own unix.CPUSet
	qt.Assert(t, qt.IsNil(unix.SchedGetaffinity(0, &own)))
	if own.Count() < 2 {
		t.Skip("one processor is no choice")
	}
	first := 0
	for !own.IsSet(first) {
		first++
	}
	one, other := sleeper(t), sleeper(t)
	tasks, notes, err := settings.Read([]int{one, other})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(tasks, 0)) // all as usual
	qt.Assert(t, qt.HasLen(notes, 0))

	slack, prio := uint64(12345), 2<<13|6
	told := settings.Task{Process: one, Thread: one, Name: "sh", CPUs: []int{first}, TimerSlackNS: &slack, IOPriority: &prio, CoreFilter: "0000007f"}
	notes, err = settings.Apply([]int{one, other}, []settings.Task{told})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(notes, 0))
	tasks, _, err = settings.Read([]int{one, other})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(tasks, []settings.Task{told}))

	b, err := json.Marshal(tasks)
	qt.Assert(t, qt.IsNil(err))
	var again []settings.Task
	qt.Assert(t, qt.IsNil(json.Unmarshal(b, &again)))
	again[0].Process, again[0].Thread = other, other
	notes, err = settings.Apply([]int{one, other}, again)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(notes, 0))
	tasks, _, err = settings.Read([]int{other})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(tasks, again))
}

// A processor that this host lacks, and a thread that is not there, are told.
func TestApplyTellsWhatItCanNot(t *testing.T) {
	testenv.Need(t, testenv.Root)
	pid := sleeper(t)
	notes, err := settings.Apply([]int{pid}, []settings.Task{
		{Process: pid, Thread: pid, Name: "sh", CPUs: []int{1021, 1022, 1023}},
		{Process: pid, Thread: pid + 1<<20, Name: "gone", CPUs: []int{0}},
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(notes, 2))
	qt.Check(t, qt.IsTrue(strings.Contains(notes[0], "(sh) inside the app does not get its CPU affinity, processors 1021-1023 back: this host lets it have none of them")), qt.Commentf("%s", notes[0]))
	qt.Check(t, qt.IsTrue(strings.Contains(notes[1], "is not there")), qt.Commentf("%s", notes[1]))
}
