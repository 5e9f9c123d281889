package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// wakeNew wakes a hibernated server by new connections that ask shortly after they
// are made, and sets the slowest answer beside the median: an app that sometimes does
// not see who asks leaves that client waiting.
func wakeNew(ctx context.Context, b *bench) error {
	const name = "wake/new"
	if !b.wants(name) {
		return nil
	}
	count := 1000
	if b.small {
		count = 20
	}
	var took []float64
	err := withWorld(ctx, func(w *world) error {
		if err := w.subject(ctx, "subject", endpoint, 0); err != nil {
			return err
		}
		for i := range count {
			if _, err := w.api.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil); err != nil {
				return err
			}
			// From at once to 6 ms later, by steps of which no two are alike in a row.
			d, err := w.askAnew(ctx, time.Duration(i*7%25)*250*time.Microsecond)
			if err != nil {
				return fmt.Errorf("wake %d: %w", i, err)
			}
			took = append(took, d)
		}
		return w.remove(ctx, "subject")
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	middle := median(took)
	slow := 0
	for _, d := range took {
		if d > 3*middle {
			slow++
		}
	}
	b.report.add(Row{
		Name: name, Unit: "ms", Ours: slices.Max(took), Other: middle, OtherName: fmt.Sprintf("median of %d", count), Goal: 3,
	})
	b.report.add(Row{Name: name + "/p99", Unit: "ms", Ours: percentile(took, 99), Other: middle, OtherName: fmt.Sprintf("median of %d", count)})
	b.report.add(Row{
		Name: name + "/slow", Unit: fmt.Sprintf("of %d", count), Ours: float64(slow), OtherName: "3 times the median", Goal: 0.5, GoalOn: "ours",
	})
	return nil
}

// askAnew connects, asks after the pause, and returns how long the answer took, in ms.
func (w *world) askAnew(ctx context.Context, pause time.Duration) (float64, error) {
	conn, err := w.dial(ctx, endpoint)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	<-timer.C
	d, err := ping(conn)
	return ms(d), err
}
