package track_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/track"
)

// programs are those that tests track, by their names. What they do is in files of tests.
var programs = map[string]func(){
	"pages":     pages,
	"torture":   torture,
	"powerless": pages, // in a user namespace, without capabilities
	"large":     large,
	"slow":      slow,
}

const pageSize = image.PageSize

// pages has 64 pages of memory. It says where, and then writes to or reads from those that it is told,
// lets go of them, has the kernel write to them, or swap them out.
func pages() {
	b, err := unix.Mmap(-1, 0, 64*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(err)
	must(unix.Madvise(b, unix.MADV_NOHUGEPAGE))
	zero, err := os.Open("/dev/zero")
	must(err)
	fmt.Fprintln(os.Stdout, address(b))
	in := bufio.NewScanner(os.Stdin)
	var sum byte
	for in.Scan() {
		for step := range strings.FieldsSeq(in.Text()) {
			var what byte
			var n int
			_, err := fmt.Sscanf(step, "%c%d", &what, &n)
			must(err)
			page := b[n*pageSize : (n+1)*pageSize]
			switch what {
			case 'w':
				page[n]++
			case 'r':
				sum += page[n]
			case 'd':
				must(unix.Madvise(page, unix.MADV_DONTNEED))
			case 'p':
				must(unix.Madvise(page, unix.MADV_PAGEOUT))
			case 'g': // a guard page is none; the kernel knows them since Linux 6.13
				const install = 102 // MADV_GUARD_INSTALL
				if unix.Madvise(page, install) != nil {
					must(unix.Madvise(page, unix.MADV_DONTNEED))
				}
			case 'k':
				_, err := zero.Read(page[:1])
				must(err)
			}
		}
		fmt.Fprintln(os.Stdout, sum)
	}
}

// What was written is told, by a process and by the kernel for it; what was read is not, holes and zero
// pages are not, and a page that was collected is told again only after it was written again.
func TestCollect(t *testing.T) {
	for _, name := range []string{"pages", "powerless"} {
		t.Run(name, func(t *testing.T) { testCollect(t, name) })
	}
}

func testCollect(t *testing.T, name string) {
	t.Helper()
	p, at := begin(t, name)
	start0 := number(t, at)
	collect := func(tr *track.Tracker) []uint64 {
		t.Helper()
		runs, err := tr.Collect(t.Context(), p.pid)
		qt.Assert(t, qt.IsNil(err))
		return within(runs, start0, 64)
	}
	scan := func(tr *track.Tracker) (clean, dirty []uint64) {
		t.Helper()
		goOn := p.stop()
		defer goOn()
		c, d, err := tr.Scan(t.Context(), p.pid)
		qt.Assert(t, qt.IsNil(err))
		return within(c, start0, 64), within(d, start0, 64)
	}
	p.ask("w1 w2 w3 w10 w20 w22 g22 w23 r30 w63")
	tr := start(t, p)
	clean, dirty := scan(tr)
	qt.Check(t, qt.HasLen(clean, 0))
	qt.Check(t, qt.DeepEquals(dirty, []uint64{1, 2, 3, 10, 20, 23, 63}))
	qt.Check(t, qt.DeepEquals(collect(tr), []uint64{1, 2, 3, 10, 20, 23, 63}))
	qt.Check(t, qt.HasLen(collect(tr), 0))
	p.ask("w2 r10 p10 k3 w30 p30 d20 w21 g23 d63 r63")
	clean, dirty = scan(tr)
	qt.Check(t, qt.DeepEquals(clean, []uint64{1, 10}))
	qt.Check(t, qt.DeepEquals(dirty, []uint64{2, 3, 21, 30}))
	qt.Check(t, qt.DeepEquals(collect(tr), []uint64{2, 3, 21, 30}))
	clean, dirty = scan(tr)
	qt.Check(t, qt.DeepEquals(clean, []uint64{1, 2, 3, 10, 21, 30}))
	qt.Check(t, qt.HasLen(dirty, 0))
	qt.Assert(t, qt.IsNil(tr.Close()))
	again := start(t, p)
	qt.Check(t, qt.DeepEquals(collect(again), []uint64{1, 2, 3, 10, 21, 30}))
}

func TestSupported(t *testing.T) {
	if err := track.Supported(); err != nil {
		qt.Check(t, qt.ErrorIs(err, track.ErrUnsupported))
		t.Fatal(err)
	}
}
