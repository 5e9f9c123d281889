package track_test

import (
	"bufio"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/track"
)

const largePages = 256 << 20 / pageSize

// large has much memory. It writes to every 16th page when it is told, and says how long the longest of
// its steps took, in microseconds, of which each touches a new page.
func large() {
	b, err := unix.Mmap(-1, 0, largePages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(err)
	if len(os.Args) > 3 {
		must(unix.Madvise(b, unix.MADV_HUGEPAGE))
	}
	for i := 0; i < len(b); i += pageSize {
		b[i] = 1
	}
	must(unix.Madvise(b, unix.MADV_NOHUGEPAGE))
	pauses := make(chan chan time.Duration)
	go pause(pauses)
	fmt.Fprintln(os.Stdout, "ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		for i := 0; i < len(b); i += 16 * pageSize {
			b[i]++
		}
		answer := make(chan time.Duration)
		pauses <- answer
		fmt.Fprintln(os.Stdout, (<-answer).Microseconds())
	}
}

// pause measures how long a thread that touches new memory stands still.
func pause(asked <-chan chan time.Duration) {
	b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(err)
	var longest time.Duration
	for i := 0; ; i = (i + pageSize) % len(b) {
		if i == 0 {
			must(unix.Madvise(b, unix.MADV_DONTNEED))
		}
		before := time.Now()
		b[i] = 1
		longest = max(longest, time.Since(before))
		select {
		case answer := <-asked:
			answer <- longest
			longest = 0
		default:
		}
	}
}

// What tracking costs, for 1 GiB.
func BenchmarkTrack(b *testing.B) {
	for _, kind := range []string{"pages", "huge"} {
		b.Run(kind, func(b *testing.B) {
			args := []string{"large"}
			if kind == "huge" {
				args = append(args, kind)
			}
			p, _ := begin(b, args...)
			took := make(map[string]time.Duration)
			note := func(name string, fn func()) {
				before := time.Now()
				fn()
				took[name] += time.Since(before)
			}
			collect := func(tr *track.Tracker) {
				_, err := tr.Collect(b.Context(), p.pid)
				qt.Assert(b, qt.IsNil(err))
			}
			for b.Loop() {
				var tr *track.Tracker
				p.ask("forget pauses")
				note("start", func() { tr = start(b, p) })
				b.ReportMetric(float64(number(b, p.ask("write"))), "start-pause-us")
				note("first", func() { collect(tr) })
				b.ReportMetric(float64(number(b, p.ask("write"))), "first-pause-us")
				note("sixteenth", func() { collect(tr) })
				goOn := p.stop()
				note("scan", func() {
					_, _, err := tr.Scan(b.Context(), p.pid)
					qt.Assert(b, qt.IsNil(err))
				})
				goOn()
				p.ask("forget pauses")
				note("close", func() { qt.Assert(b, qt.IsNil(tr.Close())) })
				b.ReportMetric(float64(number(b, p.ask("write"))), "close-pause-us")
			}
			for name, d := range took {
				b.ReportMetric(float64(d.Microseconds())*4/1000/float64(b.N), name+"-ms/GiB")
			}
		})
	}
}
