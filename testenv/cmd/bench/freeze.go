package main

import (
	"context"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// freeze measures how long a server stands still while a snapshot of it is
// taken and it goes on, by its number of connections.
func freeze(ctx context.Context, b *bench) error {
	counts := []int{1, 100, 1000, 5000}
	if b.small {
		counts = counts[:2]
	}
	for _, n := range counts {
		name := fmt.Sprintf("freeze/connections=%d", n)
		if !b.wants(name) {
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
		b.report.add(Row{Name: name, Unit: "ms frozen", Ours: ours, Other: others["nftables"], OtherName: "criu nftables lock", Goal: goal})
		b.addOthers(name, "ms frozen", ours, others)
	}
	return nil
}

// freezeMemory is the same by the size of the server's memory.
func freezeMemory(ctx context.Context, b *bench) error {
	for _, mib := range b.sizes() {
		name := fmt.Sprintf("freeze/memory=%dMiB", mib)
		if !b.wants(name) {
			continue
		}
		ours, others, err := frozen(ctx, b, 1, mib, "nftables")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.report.add(Row{Name: name, Unit: "ms frozen", Ours: ours, Other: others["nftables"], OtherName: "criu nftables lock"})
		b.addOthers(name, "ms frozen", ours, others)
	}
	return nil
}

// addOthers adds a row for each that was measured besides the main one.
func (b *bench) addOthers(name, unit string, ours float64, others map[string]float64) {
	for _, other := range []struct{ key, name string }{{"iptables", "criu iptables lock"}, {"runc", "runc checkpoint"}} {
		if v, ok := others[other.key]; ok {
			b.report.add(Row{Name: name + "/" + other.key, Unit: unit, Ours: ours, Other: v, OtherName: other.name})
		}
	}
}

// sizes are the sizes of memory to measure, in MiB.
func (b *bench) sizes() []int {
	if b.small {
		return []int{16}
	}
	return []int{16, 256, 1024}
}

// frozen measures ours and stock CRIU with each of its locks, by turns, and
// then runc, if there is one.
func frozen(ctx context.Context, b *bench, connections, mib int, locks ...string) (ours float64, others map[string]float64, err error) {
	var mine []float64
	theirs := make(map[string][]float64)
	err = withWorld(ctx, func(w *world) error {
		if err := w.subject(ctx, "subject", endpoint, mib); err != nil {
			return err
		}
		conns, err := w.crowd(ctx, endpoint, connections)
		if err != nil {
			return err
		}
		defer closeAll(conns)
		s, err := w.stockSubject(ctx, mib)
		if err != nil {
			return err
		}
		defer s.end()
		stockConns, err := w.crowd(ctx, loopback, connections)
		if err != nil {
			return err
		}
		defer closeAll(stockConns)
		for range b.passes {
			r, err := w.api.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "s"}, nil)
			if err != nil {
				return err
			}
			mine = append(mine, ms(time.Duration(r.GetFrozenUs())*time.Microsecond))
			if err := w.api.RemoveSnapshot(ctx, "s"); err != nil {
				return err
			}
			for _, lock := range locks {
				d, err := s.dump(ctx, lock, "--leave-running")
				if err != nil {
					return err
				}
				theirs[lock] = append(theirs[lock], ms(d))
			}
		}
		closeAll(stockConns)
		if err := w.remove(ctx, "subject"); err != nil || !haveRunc() {
			return err
		}
		s.end()
		theirs["runc"], err = w.runcFrozen(ctx, b, connections, mib)
		return err
	})
	others = make(map[string]float64)
	for lock, values := range theirs {
		others[lock] = median(values)
	}
	return median(mine), others, err
}
