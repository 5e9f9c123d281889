package main

import (
	"context"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// freeze measures how long a server stands still while a snapshot of it is
// taken and it goes on, by its number of connections.
func freeze(ctx context.Context, b *rig.Bench) error {
	counts := []int{1, 100, 1000, 5000}
	if b.Small {
		counts = counts[:2]
	}
	for _, n := range counts {
		name := fmt.Sprintf("freeze/connections=%d", n)
		if !b.Wants(name) {
			continue
		}
		goal := 0.0
		if n == 1000 {
			goal = 0.3
		}
		locks := []string{"nftables"}
		if n <= 100 {
			// This lock starts iptables twice for each connection, with ever
			// more rules to read: minutes from a thousand on.
			locks = append(locks, "iptables")
		}
		ours, others, err := frozen(ctx, b, n, 0, locks...)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.Report.Add(report.Row{Name: name, Unit: "ms frozen", Ours: ours, Other: others["nftables"], OtherName: "criu nftables lock", Goal: goal})
		b.AddOthers(name, "ms frozen", ours, others)
	}
	return nil
}

// freezeMemory is the same by the size of the server's memory.
func freezeMemory(ctx context.Context, b *rig.Bench) error {
	for _, mib := range b.Sizes() {
		name := fmt.Sprintf("freeze/memory=%dMiB", mib)
		if !b.Wants(name) {
			continue
		}
		ours, others, err := frozen(ctx, b, 1, mib, "nftables")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.Report.Add(report.Row{Name: name, Unit: "ms frozen", Ours: ours, Other: others["nftables"], OtherName: "criu nftables lock"})
		b.AddOthers(name, "ms frozen", ours, others)
	}
	return nil
}

// frozen measures ours and stock CRIU with each of its locks, by turns, and
// then runc, if there is one.
func frozen(ctx context.Context, b *rig.Bench, connections, mib int, locks ...string) (ours float64, others map[string]float64, err error) {
	var mine []float64
	theirs := make(map[string][]float64)
	err = rig.WithWorld(ctx, func(w *rig.World) error {
		if err := w.Subject(ctx, "subject", rig.Endpoint, mib); err != nil {
			return err
		}
		conns, err := w.Crowd(ctx, rig.Endpoint, connections)
		if err != nil {
			return err
		}
		defer rig.CloseAll(conns)
		s, err := w.StockSubject(ctx, mib)
		if err != nil {
			return err
		}
		defer s.End()
		stockConns, err := w.Crowd(ctx, rig.Loopback, connections)
		if err != nil {
			return err
		}
		defer rig.CloseAll(stockConns)
		for range b.Passes {
			r, err := w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "s"}, nil)
			if err != nil {
				return err
			}
			mine = append(mine, rig.MS(time.Duration(r.GetFrozenUs())*time.Microsecond))
			if err := w.API.RemoveSnapshot(ctx, "s"); err != nil {
				return err
			}
			for _, lock := range locks {
				d, err := s.Dump(ctx, lock, "--leave-running")
				if err != nil {
					return err
				}
				theirs[lock] = append(theirs[lock], rig.MS(d))
			}
		}
		rig.CloseAll(stockConns)
		if err := w.Remove(ctx, "subject"); err != nil || !rig.HaveRunc() {
			return err
		}
		s.End()
		theirs["runc"], err = runcFrozen(ctx, w, b, connections, mib)
		return err
	})
	others = make(map[string]float64)
	for lock, values := range theirs {
		others[lock] = report.Median(values)
	}
	return report.Median(mine), others, err
}
