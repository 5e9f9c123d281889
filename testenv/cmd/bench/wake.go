package main

import (
	"context"
	"fmt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// wake measures the time from a client's byte to a hibernated server, to the
// answer, beside the bare time of `criu restore` of the same process, which
// brings no connection back.
func wake(ctx context.Context, b *rig.Bench) error {
	for _, mib := range append([]int{0}, b.Sizes()...) {
		name := fmt.Sprintf("wake/memory=%dMiB", mib)
		if !b.Wants(name) {
			continue
		}
		var ours, theirs, runcs []float64
		err := rig.WithWorld(ctx, func(w *rig.World) error {
			if err := w.Subject(ctx, "subject", rig.Endpoint, mib); err != nil {
				return err
			}
			conns, err := w.Crowd(ctx, rig.Endpoint, 1)
			if err != nil {
				return err
			}
			defer rig.CloseAll(conns)
			for range b.Passes {
				if _, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil); err != nil {
					return err
				}
				d, err := rig.Ping(conns[0])
				if err != nil {
					return err
				}
				ours = append(ours, rig.MS(d))
				took, err := bareRestore(ctx, w, mib)
				if err != nil {
					return err
				}
				theirs = append(theirs, took)
				if !rig.HaveRunc() {
					continue
				}
				if took, err = runcWake(ctx, w, mib); err != nil {
					return err
				}
				runcs = append(runcs, took)
			}
			return w.Remove(ctx, "subject")
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.Report.Add(report.Row{
			Name: name, Unit: "ms", Ours: report.Median(ours), Other: report.Median(theirs), OtherName: "criu restore, no connections",
			Goal: 15, GoalOn: "extra",
		})
		if len(runcs) > 0 {
			b.Report.Add(report.Row{Name: name + "/runc", Unit: "ms", Ours: report.Median(ours), Other: report.Median(runcs), OtherName: "runc restore, detached"})
		}
	}
	return nil
}

// bareRestore is how long stock CRIU takes to restore the server, in ms.
func bareRestore(ctx context.Context, w *rig.World, mib int) (float64, error) {
	s, err := w.StockSubject(ctx, mib)
	if err != nil {
		return 0, err
	}
	defer s.End()
	conn, err := w.Dial(ctx, rig.Loopback)
	if err != nil {
		return 0, err
	}
	if _, err := rig.Ping(conn); err != nil {
		return 0, err
	}
	if err := conn.Close(); err != nil {
		return 0, err
	}
	if _, err := s.Dump(ctx, "skip", "--tcp-close"); err != nil {
		return 0, err
	}
	took, err := s.Restore(ctx, "--tcp-close")
	return rig.MS(took), err
}
