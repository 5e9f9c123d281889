package fleet

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// crowd is how many hosts and endpoints the directory is measured with, how many of these change
// their owner in a minute and for how long, and for how long each higher rate is tried.
type crowd struct {
	hosts, endpoints, perMinute int
	steady, step                time.Duration
	highest                     int
}

// late is when a change counts as too late: a move would be felt.
const late = time.Second

// Measure measures the directory with many hosts: the rows directory/...
func Measure(ctx context.Context, b *rig.Bench) (err error) {
	wanted := make(map[string]bool)
	for _, name := range []string{"claim", "disk", "memory/etcd", "memory/host", "change", "change/p99", "heard/p99", "most"} {
		wanted[name] = b.Wants("directory/" + name)
	}
	if !slices.Contains(values(wanted), true) {
		return nil
	}
	c := crowd{hosts: 50, endpoints: 10_000, perMinute: 1000, steady: 20 * time.Second, step: 4 * time.Second, highest: 128_000}
	if b.Small {
		c = crowd{hosts: 5, endpoints: 500, perMinute: 1000, steady: time.Second, step: time.Second, highest: 2000}
	}
	f, err := Open(ctx, c.hosts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(ctx)) }()
	add := func(row report.Row) {
		if wanted[row.Name] {
			row.Name = "directory/" + row.Name
			b.Report.Add(row)
		}
	}
	if err := fill(ctx, f, c, add); err != nil {
		return err
	}
	if wanted["change"] || wanted["change/p99"] || wanted["heard/p99"] {
		if err := changes(ctx, f, c, add); err != nil {
			return err
		}
	}
	if wanted["most"] {
		rate, why := most(ctx, f, c)
		add(report.Row{Name: "most", Unit: "changes/min", Ours: float64(rate), Other: float64(c.perMinute), OtherName: "asked for; beyond: " + why, Goal: -1})
	}
	return ctx.Err()
}

func values(m map[string]bool) (list []bool) {
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// fill has the hosts claim their endpoints, and measures what these take.
func fill(ctx context.Context, f *Fleet, c crowd, add func(report.Row)) error {
	bytes, err := f.Bytes(ctx)
	if err != nil {
		return err
	}
	anonymous, err := rig.Rollup(f.PID())
	if err != nil {
		return err
	}
	took, err := f.Claim(ctx, c.endpoints)
	if err != nil {
		return err
	}
	n := float64(c.endpoints)
	add(report.Row{Name: "claim", Unit: "us an endpoint", Ours: float64(took.Microseconds()) / n})
	bytesFull, err := f.Bytes(ctx)
	if err != nil {
		return err
	}
	add(report.Row{Name: "disk", Unit: "bytes an endpoint", Ours: float64(bytesFull-bytes) / n})
	heap := inUse()
	if err := f.Follow(ctx); err != nil {
		return err
	}
	add(report.Row{Name: "memory/host", Unit: "bytes an endpoint", Ours: (inUse() - heap) / n / float64(c.hosts)})
	full, err := rig.Rollup(f.PID())
	if err != nil {
		return err
	}
	add(report.Row{Name: "memory/etcd", Unit: "bytes an endpoint", Ours: float64(full["Anonymous"]-anonymous["Anonymous"]) * 1024 / n})
	return nil
}

// inUse is what this process has on its heap, in bytes.
func inUse() float64 {
	var m runtime.MemStats
	for range 2 { // a pool keeps what it has for one more
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// changes measures changes of owner at the rate that is asked for, and puts of etcd itself beside
// them.
func changes(ctx context.Context, f *Fleet, c crowd, add func(report.Row)) error {
	beside, stop := context.WithCancel(ctx)
	defer stop()
	type puts struct {
		took []float64
		err  error
	}
	done := make(chan puts, 1)
	go func() {
		var p puts
		for beside.Err() == nil && p.err == nil {
			var took time.Duration
			if took, p.err = f.Put(ctx); p.err == nil {
				p.took = append(p.took, rig.MS(took))
			}
			pause(beside, 50*time.Millisecond)
		}
		done <- p
	}()
	t := f.Change(ctx, c.perMinute, c.steady)
	stop()
	p := <-done
	if err := errors.Join(append(t.Failed, p.err)...); err != nil {
		return err
	}
	made, heard := inMS(t.Made), inMS(t.Heard)
	add(report.Row{Name: "change", Unit: "ms p50", Ours: report.Median(made), Other: report.Median(p.took), OtherName: "one put to etcd"})
	add(report.Row{Name: "change/p99", Unit: "ms p99", Ours: report.Percentile(made, 99), Other: report.Percentile(p.took, 99), OtherName: "one put to etcd"})
	add(report.Row{
		Name: "heard/p99", Unit: "ms p99", Ours: report.Percentile(heard, 99), Other: report.Percentile(made, 99), OtherName: "until it was made",
	})
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func inMS(list []time.Duration) (ms []float64) {
	for _, d := range list {
		ms = append(ms, rig.MS(d))
	}
	return ms
}

// most doubles the rate until something fails, and returns the last rate that nothing failed at.
func most(ctx context.Context, f *Fleet, c crowd) (rate int, why string) {
	for next := c.perMinute; next <= c.highest; next *= 2 {
		t := f.Change(ctx, next, c.step)
		switch {
		case len(t.Failed) > 0:
			return rate, fmt.Sprintf("%d of %d fail: %v", len(t.Failed), len(t.Failed)+len(t.Made), t.Failed[0])
		case report.Percentile(inMS(t.Made), 99) > rig.MS(late):
			return rate, "made more than a second late"
		case report.Percentile(inMS(t.Heard), 99) > rig.MS(late):
			return rate, "heard of more than a second late"
		}
		rate = next
	}
	return rate, "not tried"
}
