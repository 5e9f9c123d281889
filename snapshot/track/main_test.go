package track_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/inject"
	"github.com/snapctl/snapctl/snapshot/track"
	"github.com/snapctl/snapctl/testenv"
)

// What programs do is done by a process's first thread.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // of the main function

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == inject.Command {
		must(inject.Serve(os.Stdin, os.Stdout))
		return
	}
	if len(os.Args) > 2 && os.Args[1] == programCommand {
		programs[os.Args[2]]()
		return
	}
	os.Exit(m.Run())
}

const programCommand = "program"

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// program is a running one of programs, which does a step for each line that it gets, and answers by a
// line.
type program struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Scanner
	pid int
}

// begin starts a program, and returns it when it has said its first line.
func begin(tb testing.TB, args ...string) (p *program, first string) {
	tb.Helper()
	return beginWith(tb, nil, args...)
}

// beginWith is begin for a program that has a file, if any, as its descriptor 3, and mounts of its own.
func beginWith(tb testing.TB, file *os.File, args ...string) (p *program, first string) {
	tb.Helper()
	testenv.Need(tb, testenv.Root, testenv.Kernel(6, 9))
	p = &program{t: tb, cmd: exec.CommandContext(tb.Context(), "/proc/self/exe", append([]string{programCommand}, args...)...)}
	p.cmd.Stderr = os.Stderr
	if args[0] == "powerless" {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 65534, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 65534, Size: 1}},
			Credential:  &syscall.Credential{Uid: 1000, Gid: 1000, NoSetGroups: true},
		}
	}
	if file != nil {
		p.cmd.ExtraFiles = []*os.File{file}
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	var err error
	p.in, err = p.cmd.StdinPipe()
	qt.Assert(tb, qt.IsNil(err))
	out, err := p.cmd.StdoutPipe()
	qt.Assert(tb, qt.IsNil(err))
	p.out = bufio.NewScanner(out)
	qt.Assert(tb, qt.IsNil(p.cmd.Start()))
	p.pid = p.cmd.Process.Pid
	tb.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p, p.answer()
}

func (p *program) answer() string {
	p.t.Helper()
	qt.Assert(p.t, qt.IsTrue(p.out.Scan()), qt.Commentf("the program has ended"))
	return p.out.Text()
}

// ask has the program do a step, and returns its answer.
func (p *program) ask(step string) string {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, step)
	qt.Assert(p.t, qt.IsNil(err))
	return p.answer()
}

// number reads an answer that is one.
func number(tb testing.TB, answer string) uint64 {
	tb.Helper()
	n, err := strconv.ParseUint(answer, 0, 64)
	qt.Assert(tb, qt.IsNil(err))
	return n
}

// stop has all threads of the program stand still, until goOn.
func (p *program) stop() (goOn func()) {
	p.t.Helper()
	return testenv.StopProcess(p.t, p.pid)
}

// await waits until something is so.
func await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	tick := time.Tick(time.Millisecond)
	for deadline := time.Now().Add(30 * time.Second); !so(); <-tick {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 30 s: %s", what)
		}
	}
}

// start tracks a program.
func start(tb testing.TB, p *program) *track.Tracker {
	tb.Helper()
	tr, err := track.Start(tb.Context(), "/proc/self/exe", []int{p.pid}, 1)
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(func() { qt.Check(tb, qt.IsNil(tr.Close())) })
	qt.Assert(tb, qt.HasLen(tr.Skipped(), 0))
	qt.Assert(tb, qt.DeepEquals(tr.PIDs(), []int{p.pid}))
	return tr
}

// within returns what of runs is in an area, by the number of the page there.
func within(runs []track.Run, start, pages uint64) (numbers []uint64) {
	for _, r := range runs {
		for at := r.Start; at < r.End(); at += image.PageSize {
			if at >= start && at < start+pages*image.PageSize {
				numbers = append(numbers, (at-start)/image.PageSize)
			}
		}
	}
	return numbers
}

// address is where memory is.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
