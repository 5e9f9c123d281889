// Package writing measures for how long an app stands still that writes to its memory all the time.
package writing

import (
	"context"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// rate is what the app writes, in MiB a second, to pages all over its memory.
const rate = 50

// Measure has new apps saved for the first time, by snapshots, after which they go on, and by
// hibernations. Beside them CRIU saves the same program.
func Measure(ctx context.Context, b *rig.Bench) error {
	for _, mib := range b.Sizes() {
		if mib == 0 {
			continue
		}
		for _, op := range []string{"snapshot", "hibernate"} {
			name := fmt.Sprintf("freeze/writing/%s/memory=%dMiB", op, mib)
			if !b.Wants(name) {
				continue
			}
			if err := row(ctx, b, name, op, mib); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func row(ctx context.Context, b *rig.Bench, name, op string, mib int) error {
	var frozen, total, other []float64
	err := rig.WithWorld(ctx, func(w *rig.World) error {
		args := []string{"-memory", fmt.Sprint(mib), "-write", fmt.Sprint(rate)}
		for range b.Passes {
			r, err := ours(ctx, w, op, args)
			if err != nil {
				return err
			}
			frozen = append(frozen, rig.MS(time.Duration(r.GetFrozenUs())*time.Microsecond))
			total = append(total, rig.MS(time.Duration(r.GetTotalUs())*time.Microsecond))
			took, err := theirs(ctx, w, op, args)
			if err != nil {
				return err
			}
			other = append(other, rig.MS(took))
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.Report.Add(report.Row{Name: name, Unit: "ms frozen", Ours: report.Median(frozen), Other: report.Median(other), OtherName: "criu dump"})
	b.Report.Add(report.Row{Name: name + "/whole", Unit: "ms", Ours: report.Median(total), Other: report.Median(other), OtherName: "criu dump"})
	return nil
}

// ours saves a new app, and removes it.
func ours(ctx context.Context, w *rig.World, op string, args []string) (r *api.Result, err error) {
	if err := w.Program(ctx, "subject", rig.Endpoint, "subject", args...); err != nil {
		return nil, err
	}
	if err := w.Answers(ctx, rig.Endpoint); err != nil {
		return nil, err
	}
	if op == "hibernate" {
		r, err = w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil)
	} else {
		r, err = w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "s"}, nil)
	}
	if err != nil {
		return nil, err
	}
	if err := w.Remove(ctx, "subject"); err != nil {
		return nil, err
	}
	if op != "hibernate" {
		if err := w.API.RemoveSnapshot(ctx, "s"); err != nil {
			return nil, err
		}
	}
	return r, w.Swept(ctx)
}

// theirs has CRIU save the program.
func theirs(ctx context.Context, w *rig.World, op string, args []string) (time.Duration, error) {
	path, err := w.Install(ctx, "subject")
	if err != nil {
		return 0, err
	}
	s, err := w.StockProgram(ctx, append([]string{path}, args...)...)
	if err != nil {
		return 0, err
	}
	defer s.End()
	if err := w.Answers(ctx, rig.Loopback); err != nil {
		return 0, err
	}
	if op == "hibernate" {
		took, err := s.CRIU(ctx, "dump", "-t", fmt.Sprint(s.PID), "--tcp-close", "--network-lock", "skip")
		s.Ended = err == nil
		return took, err
	}
	return s.Dump(ctx, "nftables", "--leave-running")
}
