package ahead_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/ahead"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
	"github.com/snapctl/snapctl/snapshot/inject"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// The tracer's calls are those of one thread.
func init() { runtime.LockOSThread() } //nolint:forbidigo,gochecknoinits // of the main function

const (
	writerCommand = "writer"
	stepsCommand  = "steps"
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == inject.Command:
		must(inject.Serve(os.Stdin, os.Stdout))
	case len(os.Args) == 2 && os.Args[1] == writerCommand:
		writer()
	case len(os.Args) == 2 && os.Args[1] == stepsCommand:
		steps()
	default:
		os.Exit(m.Run())
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// writer changes its memory all the time in all ways that there are.
func writer() {
	const pages, pageSize = 24 << 8, image.PageSize
	b, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(err)
	for i := range pages {
		copy(b[i*pageSize:], fmt.Sprintf("page %d", i))
	}
	_, err = os.Stdout.WriteString("ready\n")
	must(err)
	rest := time.Tick(20 * time.Microsecond)
	for n := uint64(0); ; n++ {
		at := rand.IntN(pages - 300)
		switch what := rand.IntN(100); {
		case what == 0:
			must(unix.Madvise(b[at*pageSize:(at+1+rand.IntN(30))*pageSize], unix.MADV_DONTNEED))
		case what < 5:
			for i := range 30 + rand.IntN(200) {
				b[(at+i)*pageSize+int(n%pageSize)]++
			}
		case what < 40:
			b[at*pageSize+int(n%pageSize)]++
		default:
			<-rest
		}
	}
}

// start starts a writer.
func start(t *testing.T) (pid int) {
	t.Helper()
	pid, _ = startProgram(t, writerCommand)
	return pid
}

// startProgram starts a program. ask has it do a step, when it has done the one before.
func startProgram(t *testing.T, name string) (pid int, ask func(step string)) {
	t.Helper()
	return startFile(t, "/proc/self/exe", name)
}

// startFile is startProgram for another file than this one.
func startFile(t *testing.T, exe, name string) (pid int, ask func(step string)) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), exe, name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	said := bufio.NewScanner(out)
	qt.Assert(t, qt.IsTrue(said.Scan()))
	return cmd.Process.Pid, func(step string) {
		t.Helper()
		_, err := fmt.Fprintln(in, step)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(said.Scan()))
	}
}

// TestCopy copies the memory of a process that writes to it all the time, and compares what a dump is to
// leave out with what the process has when it stands still.
func TestCopy(t *testing.T) {
	testenv.Need(t, testenv.Root)
	leak.Check(t)
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprintf("ends=%v", ends), func(t *testing.T) {
			pid := start(t)
			for range 5 {
				check(t, pid, ends)
			}
		})
	}
}

func check(t *testing.T, pid int, ends bool) {
	t.Helper()
	checkWith(t, t.Context(), t.TempDir(), pid, ends, func(int) {})
}

// checkWith is check with what is done when the processes are made to stand still for the nth time.
func checkWith(t *testing.T, ctx context.Context, root string, pid int, ends bool, settle func(n int)) { //nolint:revive // as testing has it
	t.Helper()
	checkLeft(t, ctx, root, pid, ends, settle, nil)
}

// checkLeft is checkWith with a look at what is left out, if before is not nil.
func checkLeft(t *testing.T, ctx context.Context, root string, pid int, ends bool, settle func(n int), before func(*memmap.Left, *memory.Store)) { //nolint:revive // as testing has it
	t.Helper()
	store, err := memory.Open(filepath.Join(root, "store"))
	qt.Assert(t, qt.IsNil(err))
	dir := filepath.Join(root, "copies")
	qt.Assert(t, qt.IsNil(os.Mkdir(dir, 0o700)))
	settled := 0
	m, err := ahead.Copy(ctx, ahead.Options{
		Processes: []ahead.Process{{PID: pid, Inside: 1}}, Tracer: "/proc/self/exe", Least: 256, Dir: dir, Store: store, Ends: ends,
		Settle: func(context.Context) error {
			settle(settled)
			settled++
			return nil
		},
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(settled > 1))
	defer func() { qt.Check(t, qt.IsNil(m.Close())) }()
	goOn := testenv.StopProcess(t, pid)
	defer goOn()
	out, err := m.Frozen(ctx)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(out, 1))
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	qt.Assert(t, qt.IsNil(err))
	defer mem.Close()
	if !ends {
		ahead.OwnWasted(m)
	}
	left := ahead.Left(m)[1]
	if before != nil {
		before(left, store)
	}
	places, pages := left.Own, uint64(0)
	for _, p := range left.Kept {
		for i := range p.Pages {
			if at := p.Start + i*image.PageSize; slices.ContainsFunc(left.Pages, func(e image.Extent) bool { return e.Start <= at && at < e.End() }) {
				one := p
				one.Start, one.Pages, one.Offset = at, 1, p.Offset+i
				places = append(places, one)
			}
		}
	}
	wrong := 0
	for _, p := range places {
		is, was := make([]byte, p.Pages*image.PageSize), make([]byte, p.Pages*image.PageSize)
		_, err := mem.ReadAt(is, int64(p.Start))
		qt.Assert(t, qt.IsNil(err))
		_, err = p.File.File.ReadAt(was, int64(p.Offset*image.PageSize))
		qt.Assert(t, qt.IsNil(err))
		if !bytes.Equal(is, was) {
			wrong++
		}
		pages += p.Pages
	}
	qt.Assert(t, qt.Equals(wrong, 0), qt.Commentf("of %d places", len(places)))
	count := uint64(0)
	for _, e := range out[pid] {
		count += e.Pages
	}
	qt.Check(t, qt.Equals(pages, count))
	qt.Check(t, qt.IsTrue(pages > 1000), qt.Commentf("%d pages", pages))
	if ends {
		names, err := os.ReadDir(filepath.Join(root, "store"))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(len(names) > 0))
	}
}

// A process with little memory, and one that has ended, are left to CRIU.
func TestNothing(t *testing.T) {
	testenv.Need(t, testenv.Root)
	pid := start(t)
	options := ahead.Options{Processes: []ahead.Process{{PID: pid, Inside: 1}}, Tracer: "/proc/self/exe", Least: 1 << 30, Dir: t.TempDir()}
	_, err := ahead.Copy(t.Context(), options)
	qt.Assert(t, qt.ErrorIs(err, ahead.ErrNothing))
	exe := filepath.Join(t.TempDir(), "chrome") // of which nothing can be mapped
	b, err := os.ReadFile("/proc/self/exe")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(exe, b, 0o700))) //nolint:gosec // a program
	options.Processes[0].PID, _ = startFile(t, exe, writerCommand)
	options.Least = 1
	_, err = ahead.Copy(t.Context(), options)
	qt.Assert(t, qt.ErrorIs(err, ahead.ErrNothing))
	options.Processes[0].PID = 1 << 22 // above any process's
	_, err = ahead.Copy(t.Context(), options)
	qt.Assert(t, qt.ErrorIs(err, ahead.ErrNothing))
	ctx, cancel := context.WithCancelCause(t.Context())
	called := errors.New("called off")
	cancel(called)
	options.Processes[0].PID, options.Least = pid, 256
	_, err = ahead.Copy(ctx, options)
	qt.Assert(t, qt.ErrorIs(err, called))
}
