package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// guard measures what system calls cost in a woken process, which has a seccomp
// filter for its mapped memory, beside one that was never frozen.
func guard(ctx context.Context, b *bench) error {
	const floor = "getpid" // the least that a call costs; it has no goal
	calls := []string{floor, "read-zero1", "write-zero1", "read-zero4096", "write-zero4096", "pipe1", "pipe4096"}
	calls = slices.DeleteFunc(calls, func(c string) bool { return !b.wants("guard/" + c) })
	if len(calls) == 0 {
		return nil
	}
	return withWorld(ctx, func(w *world) error {
		woken, fresh, err := w.twins(ctx, 16)
		if err != nil {
			return err
		}
		defer woken.close()
		defer fresh.close()
		for _, c := range calls {
			ours, other, err := b.cost(woken, fresh, c)
			if err != nil {
				return fmt.Errorf("guard/%s: %w", c, err)
			}
			row := Row{Name: "guard/" + c, Unit: "ns a round", Ours: ours, Other: other, OtherName: "never frozen"}
			if c != floor {
				row.Goal = 1.02
			}
			b.report.add(row)
		}
		return errors.Join(w.remove(ctx, "woken"), w.remove(ctx, "fresh"))
	})
}

// twins runs the gauge twice, and one of them is hibernated and woken.
func (w *world) twins(ctx context.Context, mib int) (woken, fresh *gauge, err error) {
	if fresh, err = w.gauge(ctx, "fresh", "10.77.0.8", mib); err != nil {
		return nil, nil, err
	}
	if woken, err = w.gauge(ctx, "woken", endpoint, mib); err == nil {
		err = w.cycle(ctx, "woken")
	}
	if err != nil {
		fresh.close()
		return nil, nil, err
	}
	return woken, fresh, nil
}

// cost returns the time of a call in both, in ns. They take turns of some
// milliseconds, and the quarter of the turns that were disturbed least counts:
// what differs between the two is far less than what the rest of a machine adds.
func (b *bench) cost(woken, fresh *gauge, call string) (ours, other float64, err error) {
	count, turns := 10000, 150
	if b.small {
		count, turns = 2000, 20
	}
	values := make(map[*gauge][]float64)
	for range turns {
		for _, g := range []*gauge{woken, fresh} {
			took, err := g.do("call", call, count)
			if err != nil {
				return 0, 0, err
			}
			values[g] = append(values[g], float64(took.Nanoseconds())/float64(count))
		}
	}
	return percentile(values[woken], 25), percentile(values[fresh], 25), nil
}
