package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// freezeHibernate measures how long a hibernation takes by the size of the memory, all
// of it for the first time: until it is on the disk. Beside it stock CRIU dumps the
// same program, and the file system is synced.
func freezeHibernate(ctx context.Context, b *bench) error {
	for _, mib := range b.sizes() {
		name := fmt.Sprintf("freeze/hibernate/memory=%dMiB", mib)
		if !b.wants(name) {
			continue
		}
		var ours, other []float64
		err := withWorld(ctx, func(w *world) error {
			for range b.passes {
				took, err := w.hibernated(ctx, mib)
				if err != nil {
					return err
				}
				ours = append(ours, ms(took))
				if took, err = w.stockHibernated(ctx, mib); err != nil {
					return err
				}
				other = append(other, ms(took))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		row := Row{Name: name, Unit: "ms until on the disk", Ours: median(ours), Other: median(other), OtherName: "criu dump, sync -f"}
		if mib >= 1024 {
			row.Goal = 1.5 // with a digest of all of it, made meanwhile
		}
		b.report.add(row)
	}
	return nil
}

// hibernated hibernates a new app and removes it.
func (w *world) hibernated(ctx context.Context, mib int) (time.Duration, error) {
	if err := w.subject(ctx, "subject", endpoint, mib); err != nil {
		return 0, err
	}
	if err := w.answers(ctx, endpoint); err != nil {
		return 0, err
	}
	r, err := w.api.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil)
	if err != nil {
		return 0, err
	}
	if err := w.remove(ctx, "subject"); err != nil {
		return 0, err
	}
	// The next one is not to find what it saves.
	err = until(ctx, time.Minute, func() error {
		left, err := os.ReadDir(filepath.Join(w.StateDir(), "memory"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d memory files are left", len(left))
		}
		return err
	})
	return time.Duration(r.GetTotalUs()) * time.Microsecond, err
}

// stockHibernated has CRIU dump the same program, which ends.
func (w *world) stockHibernated(ctx context.Context, mib int) (took time.Duration, err error) {
	s, err := w.stockSubject(ctx, mib)
	if err != nil {
		return 0, err
	}
	defer s.end()
	defer func() {
		if rerr := os.RemoveAll(s.dir); err == nil {
			err = rerr
		}
	}()
	if err := w.answers(ctx, loopback); err != nil {
		return 0, err
	}
	dump, err := s.criu(ctx, "dump", "-t", fmt.Sprint(s.pid), "--tcp-close", "--network-lock", "skip")
	if err != nil {
		return 0, err
	}
	s.ended = true
	sync, r, err := w.timed(ctx, "sync", "-f", s.dir)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("sync: %s", r.Stderr)
	}
	_ = s.cmd.Wait() // CRIU killed it
	return dump + sync, err
}
