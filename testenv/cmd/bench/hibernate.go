package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// freezeHibernate measures how long a hibernation takes by the size of the memory, all
// of it for the first time: until it is on the disk. Beside it stock CRIU dumps the
// same program, and the file system is synced.
func freezeHibernate(ctx context.Context, b *rig.Bench) error {
	for _, mib := range b.Sizes() {
		name := fmt.Sprintf("freeze/hibernate/memory=%dMiB", mib)
		if !b.Wants(name) {
			continue
		}
		var ours, other []float64
		err := rig.WithWorld(ctx, func(w *rig.World) error {
			for range b.Passes {
				took, err := hibernated(ctx, w, mib)
				if err != nil {
					return err
				}
				ours = append(ours, rig.MS(took))
				if took, err = stockHibernated(ctx, w, mib); err != nil {
					return err
				}
				other = append(other, rig.MS(took))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		row := report.Row{Name: name, Unit: "ms until on the disk", Ours: report.Median(ours), Other: report.Median(other), OtherName: "criu dump, sync -f"}
		if mib >= 1024 {
			row.Goal = 1.5 // with a digest of all of it, made meanwhile
		}
		b.Report.Add(row)
	}
	return nil
}

// hibernated hibernates a new app and removes it.
func hibernated(ctx context.Context, w *rig.World, mib int) (time.Duration, error) {
	if err := w.Subject(ctx, "subject", rig.Endpoint, mib); err != nil {
		return 0, err
	}
	if err := w.Answers(ctx, rig.Endpoint); err != nil {
		return 0, err
	}
	r, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil)
	if err != nil {
		return 0, err
	}
	if err := w.Remove(ctx, "subject"); err != nil {
		return 0, err
	}
	return time.Duration(r.GetTotalUs()) * time.Microsecond, w.Swept(ctx)
}

// stockHibernated has CRIU dump the same program, which ends.
func stockHibernated(ctx context.Context, w *rig.World, mib int) (took time.Duration, err error) {
	s, err := w.StockSubject(ctx, mib)
	if err != nil {
		return 0, err
	}
	defer s.End()
	defer func() {
		if rerr := os.RemoveAll(s.Dir); err == nil {
			err = rerr
		}
	}()
	if err := w.Answers(ctx, rig.Loopback); err != nil {
		return 0, err
	}
	dump, err := s.CRIU(ctx, "dump", "-t", fmt.Sprint(s.PID), "--tcp-close", "--network-lock", "skip")
	if err != nil {
		return 0, err
	}
	s.Ended = true
	sync, r, err := w.Timed(ctx, "sync", "-f", s.Dir)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("sync: %s", r.Stderr)
	}
	_ = s.Cmd.Wait() // CRIU killed it
	return dump + sync, err
}
