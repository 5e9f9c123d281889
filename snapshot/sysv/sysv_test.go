package sysv_test

import (
	"bufio"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/sysv"
	"github.com/snapctl/snapctl/testenv"
)

// program makes segments and a queue in an ipc namespace of its own, tells that, and tells
// for each line that it reads what they are like.
const program = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.unshare(0x08000000)
plain, both, locked = (libc.shmget(0, 4096, 0o1600) for _ in range(3))
for s in plain, both, locked:
    libc.shmat(s, None, 0)
queues = [libc.msgget(0, 0o1600) for _ in range(2)]
if sys.argv[1] == "marked":
    libc.shmctl(both, 11, None); libc.shmctl(locked, 11, None); libc.shmctl(both, 0, None)
    d = ctypes.create_string_buffer(120)
    libc.msgctl(queues[1], 2, d)
    d[88:96] = (1000).to_bytes(8, "little")
    libc.msgctl(queues[1], 1, d)
print("READY", flush=True)
for _ in sys.stdin:
    modes = {int(l.split()[1]): l.split()[2] for l in list(open("/proc/sysvipc/shm"))[1:]}
    d = ctypes.create_string_buffer(120)
    libc.msgctl(queues[1], 2, d)
    print(*(modes[s] for s in (plain, both, locked)), int.from_bytes(d[88:96], "little"), flush=True)
`

// start runs the program; ask asks it once.
func start(t *testing.T, how string) (pid int, ask func() string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", program, how)
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	lines := bufio.NewReader(out)
	line := func() string {
		text, err := lines.ReadString('\n')
		qt.Assert(t, qt.IsNil(err))
		return strings.TrimSpace(text)
	}
	qt.Assert(t, qt.Equals(line(), "READY"))
	return cmd.Process.Pid, func() string {
		_, err := in.Write([]byte("\n"))
		qt.Assert(t, qt.IsNil(err))
		return line()
	}
}

// TestMarks reads the marks of one namespace and sets them in another one that has the
// same objects without them.
func TestMarks(t *testing.T) {
	testenv.Need(t, testenv.Root)
	from, ask := start(t, "marked")
	want := ask()
	fields := strings.Fields(want)
	qt.Assert(t, qt.HasLen(fields, 4))
	qt.Assert(t, qt.DeepEquals(fields, []string{"600", "3600", "2600", "1000"}))
	marks, err := sysv.Read(from)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(marks.Segments, 2))
	qt.Assert(t, qt.HasLen(marks.Queues, 1))

	to, ask := start(t, "plain")
	none, err := sysv.Read(to)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(none))
	notes, err := sysv.Apply(to, marks)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(notes, 0))
	qt.Assert(t, qt.Equals(ask(), want))

	marks.Segments[0].ID += 1 << 20
	notes, err = sysv.Apply(to, marks)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(notes, 2))
	qt.Assert(t, qt.StringContains(notes[0], strconv.Itoa(marks.Segments[0].ID)))
}
