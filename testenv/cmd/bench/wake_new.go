package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// wakeNew wakes a hibernated server by new connections that ask shortly after they
// are made, and sets the slowest answer beside the median: an app that sometimes does
// not see who asks leaves that client waiting.
func wakeNew(ctx context.Context, b *rig.Bench) error {
	const name = "wake/new"
	if !b.Wants(name) {
		return nil
	}
	count := 1000
	if b.Small {
		count = 20
	}
	var took []float64
	err := rig.WithWorld(ctx, func(w *rig.World) error {
		if err := w.Subject(ctx, "subject", rig.Endpoint, 0); err != nil {
			return err
		}
		for i := range count {
			if _, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil); err != nil {
				return err
			}
			// From at once to 6 ms later, by steps of which no two are alike in a row.
			d, err := askAnew(ctx, w, time.Duration(i*7%25)*250*time.Microsecond)
			if err != nil {
				return fmt.Errorf("wake %d: %w", i, err)
			}
			took = append(took, d)
		}
		return w.Remove(ctx, "subject")
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	middle := report.Median(took)
	slow := 0
	for _, d := range took {
		if d > 3*middle {
			slow++
		}
	}
	b.Report.Add(report.Row{
		Name: name, Unit: "ms", Ours: slices.Max(took), Other: middle, OtherName: fmt.Sprintf("median of %d", count), Goal: 3,
	})
	b.Report.Add(report.Row{Name: name + "/p99", Unit: "ms", Ours: report.Percentile(took, 99), Other: middle, OtherName: fmt.Sprintf("median of %d", count)})
	b.Report.Add(report.Row{
		Name: name + "/slow", Unit: fmt.Sprintf("of %d", count), Ours: float64(slow), OtherName: "3 times the median", Goal: 0.5, GoalOn: "ours",
	})
	return nil
}

// askAnew connects, asks after the pause, and returns how long the answer took, in ms.
func askAnew(ctx context.Context, w *rig.World, pause time.Duration) (float64, error) {
	conn, err := w.Dial(ctx, rig.Endpoint)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	<-timer.C
	d, err := rig.Ping(conn)
	return rig.MS(d), err
}
