package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// freezeMany measures how long an app stands still that has many threads, processes and
// descriptors, each of which is looked at meanwhile, beside stock CRIU; and for how long
// of that it does what.
func freezeMany(ctx context.Context, b *rig.Bench) error {
	threads, processes, files := 400, 100, 2000
	if b.Small {
		threads, processes, files = 20, 5, 100
	}
	name := fmt.Sprintf("freeze/many/threads=%d,processes=%d,files=%d", threads, processes, files)
	if !b.Wants(name) {
		return nil
	}
	args := []string{"-threads", fmt.Sprint(threads), "-processes", fmt.Sprint(processes), "-files", fmt.Sprint(files)}
	var ours, other []float64
	steps := make(map[string][]float64)
	err := rig.WithWorld(ctx, func(w *rig.World) error {
		if err := w.Program(ctx, "subject", rig.Endpoint, "gauge", args...); err != nil {
			return err
		}
		path, err := w.Install(ctx, "gauge")
		if err != nil {
			return err
		}
		s, err := w.StockProgram(ctx, append([]string{path}, args...)...)
		if err != nil {
			return err
		}
		defer s.End()
		for _, at := range []string{rig.Endpoint, rig.Loopback} { // all of it is there when it listens
			conn, err := w.Dial(ctx, at)
			if err != nil {
				return err
			}
			if err := conn.Close(); err != nil {
				return err
			}
		}
		for range b.Passes {
			r, err := w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "s"}, nil)
			if err != nil {
				return err
			}
			ours = append(ours, rig.MS(time.Duration(r.GetFrozenUs())*time.Microsecond))
			for step, us := range r.GetStepsUs() {
				steps[step] = append(steps[step], float64(us)/1000)
			}
			if err := w.API.RemoveSnapshot(ctx, "s"); err != nil {
				return err
			}
			d, err := s.Dump(ctx, "nftables", "--leave-running", "--shell-job")
			if err != nil {
				return err
			}
			other = append(other, rig.MS(d))
		}
		return w.Remove(ctx, "subject")
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.Report.Add(report.Row{Name: name, Unit: "ms frozen", Ours: report.Median(ours), Other: report.Median(other), OtherName: "criu nftables lock"})
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		b.Report.Add(report.Row{Name: name + "/" + step, Unit: "ms", Ours: report.Median(steps[step]), OtherName: "-"})
	}
	return nil
}
