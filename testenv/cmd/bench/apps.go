package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// manyApps measures what held apps cost a host.
func manyApps(ctx context.Context, b *rig.Bench) error {
	n := 200
	if b.Small {
		n = 10
	}
	name := fmt.Sprintf("hold/apps=%d", n)
	if !b.Wants(name) {
		return nil
	}
	return rig.WithWorld(ctx, func(w *rig.World) error {
		before, err := w.Footprint(ctx)
		if err != nil {
			return err
		}
		for i := range n {
			app, at := fmt.Sprintf("app%d", i), fmt.Sprintf("10.77.1.%d", i+1)
			if err := w.Subject(ctx, app, at, 0); err != nil {
				return err
			}
			conns, err := w.Crowd(ctx, at, 1)
			if err != nil {
				return err
			}
			defer rig.CloseAll(conns)
			if _, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: app}, nil); err != nil {
				return err
			}
		}
		after, err := w.Footprint(ctx)
		if err != nil {
			return err
		}
		for _, part := range rig.FootprintParts() {
			b.Report.Add(report.Row{Name: name + "/" + part, Unit: "KiB an app", Ours: float64(after[part]-before[part]) / float64(n), OtherName: "-"})
		}
		if err := w.KillDaemon(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		began := time.Now()
		if err := w.Start(ctx); err != nil {
			return err
		}
		b.Report.Add(report.Row{Name: name + "/daemon-start", Unit: "ms", Ours: rig.MS(time.Since(began)), OtherName: "-"})
		apps, err := w.API.List(ctx)
		if err != nil {
			return err
		}
		for _, a := range apps {
			if a.GetStatus() != api.Status_STATUS_HELD {
				return fmt.Errorf("%s is %s after the restart", a.GetName(), a.GetStatus())
			}
			if err := w.Remove(ctx, a.GetName()); err != nil {
				return err
			}
		}
		return nil
	})
}
