package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// connection measures what a TCP connection inside an app carries after it came back:
// woken, the socket is the same; in a copy it is a new one that was made what the old one
// was. Beside it the connection of an app that was never frozen, and a fresh one in the
// copy.
func connection(ctx context.Context, b *bench) error {
	const restored, woken = "connection/restored", "connection/woken"
	if wanted := b.wants(restored); !b.wants(woken) && !wanted {
		return nil
	}
	turns, mib := 20, 128
	if b.small {
		turns, mib = 1, 16
	}
	const twinAt, copyAt = "10.77.0.8", "10.77.0.9"
	return withWorld(ctx, func(w *world) error {
		for app, at := range map[string]string{"subject": endpoint, "twin": twinAt} {
			g, err := w.gauge(ctx, app, at, 0)
			if err == nil {
				_, err = g.do("stream", "kept", mib)
				g.close()
			}
			if err != nil {
				return err
			}
		}
		if err := w.copied(ctx, b, restored, copyAt); err != nil {
			return err
		}
		if err := w.cycle(ctx, "subject"); err != nil {
			return err
		}
		sides := make(map[string]func() (float64, error))
		for _, s := range []struct{ name, at, which string }{
			{"twin", twinAt, "kept"}, {"woken", endpoint, "kept"}, {"copy", copyAt, "kept"}, {"fresh", copyAt, "fresh"},
		} {
			sides[s.name] = func() (float64, error) { return w.carries(ctx, s.at, s.which, mib) }
		}
		for _, row := range []struct{ name, ours, other, what string }{
			{restored, "copy", "twin", "never frozen"},
			{restored + "/fresh", "copy", "fresh", "a new connection in the copy"},
			{woken, "woken", "twin", "never frozen"},
		} {
			ours, other, err := rates(turns, sides[row.ours], sides[row.other])
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			b.report.add(Row{Name: row.name, Unit: "MiB/s", Ours: ours, Other: other, OtherName: row.what, Goal: -0.9})
		}
		var errs []error
		for _, app := range []string{"subject", "twin", "copy"} {
			errs = append(errs, w.remove(ctx, app))
		}
		return errors.Join(errs...)
	})
}

// copied restores copies of the app, one after the other, measures what the connection of
// each carries at first, when nobody knows how much that may be, and leaves the last one.
func (w *world) copied(ctx context.Context, b *bench, name, at string) error {
	if _, err := w.api.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "s"}, nil); err != nil {
		return err
	}
	var kept, fresh []float64
	for pass := range b.passes {
		if pass > 0 {
			if err := w.remove(ctx, "copy"); err != nil {
				return err
			}
		}
		if _, err := w.command(ctx, "restore", "s", "--as", "copy", "--endpoint", at); err != nil {
			return err
		}
		g, err := w.dialGauge(ctx, at)
		if err != nil {
			return err
		}
		var took [2]time.Duration
		for i, which := range []string{"kept", "fresh"} {
			if took[i], err = g.do("stream", which, 1); err != nil {
				g.close()
				return err
			}
		}
		g.close()
		kept, fresh = append(kept, ms(took[0])), append(fresh, ms(took[1]))
	}
	b.report.add(Row{Name: name + "/first-MiB", Unit: "ms", Ours: median(kept), Other: median(fresh), OtherName: "a new connection in the copy"})
	return nil
}

// carries returns how many MiB/s a connection carries inside the app there.
func (w *world) carries(ctx context.Context, at, which string, mib int) (float64, error) {
	g, err := w.dialGauge(ctx, at)
	if err != nil {
		return 0, err
	}
	defer g.close()
	took, err := g.do("stream", which, mib)
	return float64(mib) / took.Seconds(), err
}
