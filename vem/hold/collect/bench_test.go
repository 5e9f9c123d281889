package collect_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/sockets"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// BenchmarkCollect reports what collecting costs while the app is frozen.
func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := sockets.New(b)
			a, _ := w.RunConnected(n)
			b.ResetTimer()
			var cpu time.Duration
			for b.Loop() {
				before := cpuTime(b)
				set, err := collect.App(b.Context(), []int{a.PID}, collect.Options{NS: w.NS})
				cpu += cpuTime(b) - before
				qt.Assert(b, qt.IsNil(err))
				b.StopTimer()
				qt.Assert(b, qt.IsNil(set.Close()))
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/socket")
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N*n), "cpu-us/socket")
		})
	}
}

// cpuTime is what this process has used, which other load on the machine changes
// less than the time on the clock.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var r unix.Rusage
	qt.Assert(tb, qt.IsNil(unix.Getrusage(unix.RUSAGE_SELF, &r)))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
