package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// guard measures what system calls cost in a woken process, which has a seccomp
// filter for its mapped memory, beside one that was never frozen.
func guard(ctx context.Context, b *rig.Bench) error {
	const floor = "getpid" // the least that a call costs; it has no goal
	calls := []string{floor, "read-zero1", "write-zero1", "read-zero4096", "write-zero4096", "pipe1", "pipe4096"}
	calls = slices.DeleteFunc(calls, func(c string) bool { return !b.Wants("guard/" + c) })
	if len(calls) == 0 {
		return nil
	}
	return rig.WithWorld(ctx, func(w *rig.World) error {
		woken, fresh, err := twins(ctx, w, 16)
		if err != nil {
			return err
		}
		defer woken.Close()
		defer fresh.Close()
		for _, c := range calls {
			ours, other, err := cost(b, woken, fresh, c)
			if err != nil {
				return fmt.Errorf("guard/%s: %w", c, err)
			}
			row := report.Row{Name: "guard/" + c, Unit: "ns a round", Ours: ours, Other: other, OtherName: "never frozen"}
			if c != floor {
				row.Goal = 1.02
			}
			b.Report.Add(row)
		}
		return errors.Join(w.Remove(ctx, "woken"), w.Remove(ctx, "fresh"))
	})
}

// twins runs the gauge twice, and one of them is hibernated and woken.
func twins(ctx context.Context, w *rig.World, mib int) (woken, fresh *rig.Gauge, err error) {
	if fresh, err = w.Gauge(ctx, "fresh", "10.77.0.8", mib); err != nil {
		return nil, nil, err
	}
	if woken, err = w.Gauge(ctx, "woken", rig.Endpoint, mib); err == nil {
		err = w.Cycle(ctx, "woken")
	}
	if err != nil {
		fresh.Close()
		return nil, nil, err
	}
	return woken, fresh, nil
}

// cost returns the time of a call in both, in ns. They take turns of some
// milliseconds, and the quarter of the turns that were disturbed least counts:
// what differs between the two is far less than what the rest of a machine adds.
func cost(b *rig.Bench, woken, fresh *rig.Gauge, call string) (ours, other float64, err error) {
	count, turns := 10000, 150
	if b.Small {
		count, turns = 2000, 20
	}
	values := make(map[*rig.Gauge][]float64)
	for range turns {
		for _, g := range []*rig.Gauge{woken, fresh} {
			took, err := g.Do("call", call, count)
			if err != nil {
				return 0, 0, err
			}
			values[g] = append(values[g], float64(took.Nanoseconds())/float64(count))
		}
	}
	return report.Percentile(values[woken], 25), report.Percentile(values[fresh], 25), nil
}
