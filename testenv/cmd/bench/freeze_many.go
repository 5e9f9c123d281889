package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// freezeMany measures how long an app stands still that has many threads, processes and
// descriptors, each of which is looked at meanwhile, beside stock CRIU; and for how long
// of that it does what.
func freezeMany(ctx context.Context, b *bench) error {
	threads, processes, files := 400, 100, 2000
	if b.small {
		threads, processes, files = 20, 5, 100
	}
	name := fmt.Sprintf("freeze/many/threads=%d,processes=%d,files=%d", threads, processes, files)
	if !b.wants(name) {
		return nil
	}
	args := []string{"-threads", fmt.Sprint(threads), "-processes", fmt.Sprint(processes), "-files", fmt.Sprint(files)}
	var ours, other []float64
	steps := make(map[string][]float64)
	err := withWorld(ctx, func(w *world) error {
		if err := w.program(ctx, "subject", endpoint, "gauge", args...); err != nil {
			return err
		}
		path, err := w.Install(ctx, "gauge")
		if err != nil {
			return err
		}
		s, err := w.stockProgram(ctx, append([]string{path}, args...)...)
		if err != nil {
			return err
		}
		defer s.end()
		for _, at := range []string{endpoint, loopback} { // all of it is there when it listens
			conn, err := w.dial(ctx, at)
			if err != nil {
				return err
			}
			if err := conn.Close(); err != nil {
				return err
			}
		}
		for range b.passes {
			r, err := w.api.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "s"}, nil)
			if err != nil {
				return err
			}
			ours = append(ours, ms(time.Duration(r.GetFrozenUs())*time.Microsecond))
			for step, us := range r.GetStepsUs() {
				steps[step] = append(steps[step], float64(us)/1000)
			}
			if err := w.api.RemoveSnapshot(ctx, "s"); err != nil {
				return err
			}
			d, err := s.dump(ctx, "nftables", "--leave-running", "--shell-job")
			if err != nil {
				return err
			}
			other = append(other, ms(d))
		}
		return w.remove(ctx, "subject")
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.report.add(Row{Name: name, Unit: "ms frozen", Ours: median(ours), Other: median(other), OtherName: "criu nftables lock"})
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		b.report.add(Row{Name: name + "/" + step, Unit: "ms", Ours: median(steps[step]), OtherName: "-"})
	}
	return nil
}
