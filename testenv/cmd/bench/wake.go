package main

import (
	"context"
	"fmt"

	"github.com/snapctl/snapctl/runtime/api"
)

// wake measures the time from a client's byte to a hibernated server, to the
// answer, beside the bare time of `criu restore` of the same process, which
// brings no connection back.
func wake(ctx context.Context, b *bench) error {
	for _, mib := range append([]int{0}, b.sizes()...) {
		name := fmt.Sprintf("wake/memory=%dMiB", mib)
		if !b.wants(name) {
			continue
		}
		var ours, theirs, runcs []float64
		err := withWorld(ctx, func(w *world) error {
			if err := w.subject(ctx, "subject", endpoint, mib); err != nil {
				return err
			}
			conns, err := w.crowd(ctx, endpoint, 1)
			if err != nil {
				return err
			}
			defer closeAll(conns)
			for range b.passes {
				if _, err := w.api.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil); err != nil {
					return err
				}
				d, err := ping(conns[0])
				if err != nil {
					return err
				}
				ours = append(ours, ms(d))
				took, err := w.bareRestore(ctx, mib)
				if err != nil {
					return err
				}
				theirs = append(theirs, took)
				if !haveRunc() {
					continue
				}
				if took, err = w.runcWake(ctx, mib); err != nil {
					return err
				}
				runcs = append(runcs, took)
			}
			return w.remove(ctx, "subject")
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.report.add(Row{
			Name: name, Unit: "ms", Ours: median(ours), Other: median(theirs), OtherName: "criu restore, no connections",
			Goal: 15, GoalOn: "extra",
		})
		if len(runcs) > 0 {
			b.report.add(Row{Name: name + "/runc", Unit: "ms", Ours: median(ours), Other: median(runcs), OtherName: "runc restore, detached"})
		}
	}
	return nil
}

// bareRestore is how long stock CRIU takes to restore the server, in ms.
func (w *world) bareRestore(ctx context.Context, mib int) (float64, error) {
	s, err := w.stockSubject(ctx, mib)
	if err != nil {
		return 0, err
	}
	defer s.end()
	conn, err := w.dial(ctx, loopback)
	if err != nil {
		return 0, err
	}
	if _, err := ping(conn); err != nil {
		return 0, err
	}
	if err := conn.Close(); err != nil {
		return 0, err
	}
	if _, err := s.dump(ctx, "skip", "--tcp-close"); err != nil {
		return 0, err
	}
	took, err := s.restore(ctx, "--tcp-close")
	return ms(took), err
}
