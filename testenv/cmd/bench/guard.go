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
	calls := []struct {
		name string
		goal float64
	}{
		{"getpid", 0}, // the floor
		{"read-zero1", 1.02}, {"write-zero1", 1.02}, {"read-zero4096", 1.02}, {"write-zero4096", 1.02},
		{"pipe1", 1.02}, {"pipe4096", 1.02},
	}
	if !slices.ContainsFunc(calls, func(c struct {
		name string
		goal float64
	}) bool {
		return b.wants("guard/" + c.name)
	}) {
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
			if !b.wants("guard/" + c.name) {
				continue
			}
			ours, other, err := b.cost(woken, fresh, c.name)
			if err != nil {
				return fmt.Errorf("guard/%s: %w", c.name, err)
			}
			b.report.add(Row{Name: "guard/" + c.name, Unit: "ns a round", Ours: ours, Other: other, OtherName: "never frozen", Goal: c.goal})
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
