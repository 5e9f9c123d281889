package pagescan_test

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/pagescan"
	"github.com/snapctl/snapctl/testenv"
)

// TestScan finds the pages of this process that were touched, and goes on where an answer was full.
func TestScan(t *testing.T) {
	testenv.Need(t, testenv.Kernel(6, 7))
	page := os.Getpagesize()
	memory, err := unix.Mmap(-1, 0, 8*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(unix.Munmap(memory))) }()
	qt.Assert(t, qt.IsNil(unix.Madvise(memory, unix.MADV_NOHUGEPAGE)))
	for _, i := range []int{1, 2, 5} {
		memory[i*page] = 1
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(pagemap.Close())) }()
	start := uint64(uintptr(unsafe.Pointer(&memory[0])))
	at := func(i int) uint64 { return start + uint64(i*page) }
	a := pagescan.Arg{Size: pagescan.Size, Start: start, End: at(8), AnyOf: pagescan.Present, Return: pagescan.Present}
	found := make([]pagescan.Region, 1)
	for _, want := range []pagescan.Region{{Start: at(1), End: at(3), Categories: pagescan.Present}, {Start: at(5), End: at(6), Categories: pagescan.Present}} {
		n, err := a.Scan(pagemap.Fd(), found)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(n, 1))
		qt.Check(t, qt.Equals(found[0], want))
		a.Start = a.WalkEnd
	}
	n, err := a.Scan(pagemap.Fd(), found)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(n, 0))
	qt.Check(t, qt.Equals(a.WalkEnd, at(8)))

	a.Size--
	_, err = a.Scan(pagemap.Fd(), found)
	qt.Check(t, qt.IsTrue(errors.Is(err, unix.EINVAL)))
}
