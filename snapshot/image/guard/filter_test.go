package guard

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

func TestMergeRanges(t *testing.T) {
	for name, test := range map[string]struct {
		in   []Range
		most int
		want []Range
	}{
		"none":    {most: 2},
		"sorted":  {[]Range{{8, 9}, {1, 2}}, 2, []Range{{1, 2}, {8, 9}}},
		"touch":   {[]Range{{1, 2}, {2, 3}}, 2, []Range{{1, 3}}},
		"overlap": {[]Range{{1, 5}, {2, 3}, {9, 10}}, 2, []Range{{1, 5}, {9, 10}}},
		"nearest": {[]Range{{1, 2}, {10, 11}, {13, 14}, {30, 31}}, 2, []Range{{1, 14}, {30, 31}}},
		"one":     {[]Range{{1, 2}, {10, 11}, {30, 31}}, 1, []Range{{1, 31}}},
	} {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(test.in)
			qt.Assert(t, qt.IsTrue(slices.Equal(Merge(test.in, test.most), test.want)))
			qt.Assert(t, qt.IsTrue(slices.Equal(test.in, before)))
		})
	}
}

func TestGuardIsKnown(t *testing.T) {
	qt.Assert(t, qt.IsTrue(Is(Filter([]Range{{0x1000, 0x2000}}))))
	qt.Assert(t, qt.IsFalse(Is(appendInsn(nil, ret(unix.SECCOMP_RET_ALLOW)))))
	qt.Assert(t, qt.IsFalse(Is(nil)))
}

// underFilter runs fn on a thread with a seccomp filter, which ends with it.
func underFilter(t *testing.T, program []byte, fn func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() //nolint:forbidigo // not unlocked: the thread dies with its filter
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			done <- err
			return
		}
		fprog := unix.SockFprog{Len: uint16(len(program) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
		if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
			done <- errno
			return
		}
		fn()
		done <- nil
	}()
	qt.Assert(t, qt.IsNil(<-done))
}

func callErr(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// The kernel itself is asked what a guard does, around every edge of a range.
func TestGuardFilter(t *testing.T) {
	const pages = 16
	page := uintptr(os.Getpagesize())
	addr, err := unix.MmapPtr(-1, 0, nil, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(unix.MunmapPtr(addr, pages*page))) }()
	at := func(n uintptr) uintptr { return uintptr(addr) + n*page }
	guarded := []Range{{uint64(at(4)), uint64(at(6))}, {uint64(at(8)), uint64(at(9))}, {1 << 32, 1<<32 + 4096}}

	type call struct {
		name string
		nr   uintptr
		args []uintptr
		want error
	}
	var calls []call
	madvise := func(name string, from, n, advice uintptr, want error) {
		calls = append(calls, call{"madvise " + name, unix.SYS_MADVISE, []uintptr{at(from), n * page, advice}, want})
	}
	for _, advice := range []uintptr{4, 8} {
		madvise("before", 0, 4, advice, nil)
		madvise("into", 3, 2, advice, unix.EINVAL)
		madvise("first page", 4, 1, advice, unix.EINVAL)
		madvise("last page", 5, 1, advice, unix.EINVAL)
		madvise("out of", 5, 2, advice, unix.EINVAL)
		madvise("between", 6, 2, advice, nil)
		madvise("all", 0, pages, advice, unix.EINVAL)
		madvise("second", 8, 1, advice, unix.EINVAL)
		madvise("after", 9, 4, advice, nil)
		madvise("nothing", 4, 0, advice, nil)
	}
	madvise("other advice", 4, 2, unix.MADV_NORMAL, nil)
	calls = append(calls,
		call{"madvise that wraps around", unix.SYS_MADVISE, []uintptr{at(4), ^uintptr(0), 4}, unix.EINVAL},
		call{"madvise with a length over 4 GiB", unix.SYS_MADVISE, []uintptr{at(3), 1 << 33, 4}, unix.EINVAL},
		call{"mremap grows", unix.SYS_MREMAP, []uintptr{at(4), page, 2 * page, 0}, unix.ENOMEM},
		call{"mremap grows by 4 GiB", unix.SYS_MREMAP, []uintptr{at(4), page, 1 << 32, 0}, unix.ENOMEM},
		call{"mremap moves", unix.SYS_MREMAP, []uintptr{at(4), page, page, unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED, at(12)}, unix.ENOMEM},
		call{"mremap leaves it mapped", unix.SYS_MREMAP, []uintptr{at(4), page, page, unix.MREMAP_MAYMOVE | unix.MREMAP_DONTUNMAP}, unix.ENOMEM},
		call{"mremap keeps the size", unix.SYS_MREMAP, []uintptr{at(4), page, page, unix.MREMAP_MAYMOVE}, nil},
		call{"mremap elsewhere", unix.SYS_MREMAP, []uintptr{at(10), 2 * page, 2 * page, unix.MREMAP_MAYMOVE}, nil},
		call{"process_madvise drops", unix.SYS_PROCESS_MADVISE, []uintptr{^uintptr(0), 0, 0, 4}, unix.EINVAL},
		call{"process_madvise pages out", unix.SYS_PROCESS_MADVISE, []uintptr{^uintptr(0), 0, 0, unix.MADV_PAGEOUT}, unix.EBADF},
		call{"io_uring_setup", unix.SYS_IO_URING_SETUP, []uintptr{1, 0}, unix.EPERM},
		call{"io_uring_setup of x32", 0x40000000 | unix.SYS_IO_URING_SETUP, []uintptr{1, 0}, unix.EPERM},
		call{"prctl merges all memory", unix.SYS_PRCTL, []uintptr{unix.PR_SET_MEMORY_MERGE, 1}, unix.EINVAL},
		call{"prctl with a strange truth", unix.SYS_PRCTL, []uintptr{unix.PR_SET_MEMORY_MERGE, 1 << 32}, unix.EINVAL},
		call{"another prctl", unix.SYS_PRCTL, []uintptr{unix.PR_GET_NO_NEW_PRIVS}, nil},
		// Without the guard, and without masking, the kernel says ENOMEM.
		call{"madvise with a tag in the address", unix.SYS_MADVISE, []uintptr{at(4) | 0x3f<<57, page, 4}, unix.EINVAL},
		call{"madvise with a tag, elsewhere", unix.SYS_MADVISE, []uintptr{at(10) | 0x3f<<57, page, 4}, unix.ENOMEM},
		call{"io_uring_enter", unix.SYS_IO_URING_ENTER, []uintptr{^uintptr(0)}, unix.EBADF},
		call{"madvise of x32", 0x40000000 | unix.SYS_MADVISE, []uintptr{at(4), page, 4}, unix.EINVAL},
	)
	got := make([]error, len(calls))
	underFilter(t, Filter(guarded), func() {
		for i, c := range calls {
			got[i] = callErr(c.nr, c.args...)
		}
	})
	for i, c := range calls {
		if !errors.Is(got[i], c.want) || (c.want == nil) != (got[i] == nil) {
			t.Errorf("%s: %v instead of %v", c.name, got[i], c.want)
		}
	}
}

// A guard of as many ranges as there may be is still a filter to the kernel.
func TestLongestGuardFilter(t *testing.T) {
	var ranges []Range
	for i := range uint64(3 * MaxRanges) {
		ranges = append(ranges, Range{i << 33, i<<33 + 4096})
	}
	underFilter(t, Filter(Merge(ranges, MaxRanges)), func() {})
}
