package track_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/track"
)

// say tells the test something, and waits for its next line.
func say(what ...any) {
	fmt.Fprintln(os.Stdout, what...)
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
}

// Those that begin with "unfit " can't be tracked.
func init() { //nolint:gochecknoinits // for TestUnfit to range over
	programs["exec"] = func() {
		say("ready")
		must(syscall.Exec("/proc/self/exe", []string{"program", programCommand, "pages"}, nil))
	}
	programs["sparse"] = func() {
		at, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, sparsePages*pageSize, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, ^uintptr(0), 0)
		if errno != 0 {
			panic(errno)
		}
		for _, page := range []int{0, sparsePages / 2, sparsePages - 1} {
			*(*byte)(unsafe.Add(unsafe.Pointer(nil), at+uintptr(page)*pageSize)) = 1
		}
		say(at)
	}
	programs["unfit io_uring"] = func() {
		params := make([]byte, 120) // struct io_uring_params
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&params[0])), 0)
		if errno != 0 {
			panic(errno)
		}
		say("ready")
	}
	programs["unfit io_setup"] = func() {
		var ring uintptr
		_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 8, uintptr(unsafe.Pointer(&ring)), 0)
		if errno != 0 {
			panic(errno)
		}
		say("ready")
	}
	programs["unfit userfaultfd"] = func() {
		_, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 1, 0, 0)
		if errno != 0 {
			panic(errno)
		}
		say("ready")
	}
	programs["unfit strict"] = func() {
		must(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		fmt.Fprintln(os.Stdout, "ready")
		_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_STRICT, 0)
		unix.RawSyscall(unix.SYS_READ, 0, uintptr(unsafe.Pointer(&make([]byte, 1)[0])), 1)
	}
	programs["unfit begins later"] = func() {
		say("ready")
		programs["unfit io_uring"]()
	}
}

const sparsePages = 16 << 40 / pageSize

// Address space that holds next to nothing costs next to nothing.
func TestSparse(t *testing.T) {
	p, at := begin(t, "sparse")
	start0 := number(t, at)
	tr := start(t, p)
	runs, err := tr.Collect(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	clean, _, err := tr.Scan(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	want := []uint64{0, sparsePages / 2, sparsePages - 1}
	qt.Check(t, qt.DeepEquals(within(runs, start0, sparsePages), want))
	qt.Check(t, qt.DeepEquals(within(clean, start0, sparsePages), want))
}

// What can't be tracked is left out, with the reason, and what can be is tracked all the same.
func TestUnfit(t *testing.T) {
	for name, want := range map[string]error{
		"io_uring": track.ErrAsynchronous, "io_setup": track.ErrAsynchronous,
		"userfaultfd": track.ErrOwn, "strict": track.ErrStrict,
	} {
		t.Run(name, func(t *testing.T) {
			fit, _ := begin(t, "pages")
			p, _ := begin(t, "unfit "+name)
			if name == "strict" {
				await(t, "it is strict", func() bool {
					b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
					qt.Assert(t, qt.IsNil(err))
					return strings.Contains(string(b), "Seccomp:\t1")
				})
			}
			tr, err := track.Start(t.Context(), "/proc/self/exe", []int{p.pid, fit.pid}, 1)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.ErrorIs(tr.Skipped()[p.pid], want))
			qt.Check(t, qt.DeepEquals(tr.PIDs(), []int{fit.pid}))
			_, err = tr.Collect(t.Context(), p.pid)
			qt.Check(t, qt.ErrorMatches(err, "process .* is not tracked"))
			qt.Check(t, qt.IsNil(tr.Close()))
		})
	}
	p, _ := begin(t, "pages")
	tr, err := track.Start(t.Context(), "/proc/self/exe", []int{p.pid, os.Getpid() + 1<<22}, 1<<30)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.ErrorIs(tr.Skipped()[p.pid], track.ErrLittle))
	qt.Check(t, qt.ErrorIs(tr.Skipped()[os.Getpid()+1<<22], os.ErrNotExist))
	qt.Check(t, qt.HasLen(tr.PIDs(), 0))
	qt.Check(t, qt.IsNil(tr.Close()))
}

// A process that can't be tracked any more is told of by each call.
func TestUnfitLater(t *testing.T) {
	p, _ := begin(t, "unfit begins later")
	tr := start(t, p)
	_, err := tr.Collect(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	p.ask("now")
	for range 2 {
		_, err = tr.Collect(t.Context(), p.pid)
		qt.Check(t, qt.ErrorIs(err, track.ErrAsynchronous))
	}
	_, _, err = tr.Scan(t.Context(), p.pid)
	qt.Check(t, qt.ErrorIs(err, track.ErrAsynchronous))
}

// A process that has ended, or runs another program, has no pages that were copied.
func TestEnded(t *testing.T) {
	for _, end := range []string{"exec", "exit"} {
		t.Run(end, func(t *testing.T) {
			p, _ := begin(t, "exec")
			tr := start(t, p)
			runs, err := tr.Collect(t.Context(), p.pid)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Not(qt.HasLen(runs, 0)))
			if end == "exec" {
				p.ask("now")
			} else {
				qt.Assert(t, qt.IsNil(p.cmd.Process.Kill()))
				_, err := p.cmd.Process.Wait()
				qt.Assert(t, qt.IsNil(err))
			}
			_, _, err = tr.Scan(t.Context(), p.pid)
			qt.Check(t, qt.ErrorIs(err, track.ErrEnded))
			_, err = tr.Collect(t.Context(), p.pid)
			qt.Check(t, qt.ErrorIs(err, track.ErrEnded))
			qt.Check(t, qt.IsNil(tr.Close()))
		})
	}
}

// Nothing is left in a process, neither while it is tracked nor after.
func TestNothingLeft(t *testing.T) {
	p, _ := begin(t, "pages")
	registered := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", p.pid))
		qt.Assert(t, qt.IsNil(err))
		return strings.Count(string(b), " uw ")
	}
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
		qt.Assert(t, qt.IsNil(err))
		return len(entries)
	}
	before := descriptors()
	tr := start(t, p)
	_, err := tr.Collect(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.Equals(registered(), 0)))
	qt.Check(t, qt.Equals(descriptors(), before))
	qt.Check(t, qt.IsNil(tr.Close()))
	qt.Check(t, qt.Equals(registered(), 0))
	qt.Check(t, qt.IsNil(tr.Close()))
	_, err = tr.Collect(t.Context(), p.pid)
	qt.Check(t, qt.ErrorMatches(err, "process .* is not tracked"))
}
