package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// connection measures what a TCP connection inside an app carries after it came back:
// woken, the socket is the same; in a copy it is a new one that was made what the old one
// was. Beside it the connection of an app that was never frozen, and a fresh one in the
// copy.
func connection(ctx context.Context, b *rig.Bench) error {
	const restored, woken = "connection/restored", "connection/woken"
	if wanted := b.Wants(restored); !b.Wants(woken) && !wanted {
		return nil
	}
	turns, mib := 20, 128
	if b.Small {
		turns, mib = 1, 16
	}
	const twinAt, copyAt = "10.77.0.8", "10.77.0.9"
	return rig.WithWorld(ctx, func(w *rig.World) error {
		for app, at := range map[string]string{"subject": rig.Endpoint, "twin": twinAt} {
			g, err := w.Gauge(ctx, app, at, 0)
			if err == nil {
				_, err = g.Do("stream", "kept", mib)
				g.Close()
			}
			if err != nil {
				return err
			}
		}
		if err := copied(ctx, w, b, restored, copyAt); err != nil {
			return err
		}
		if err := w.Cycle(ctx, "subject"); err != nil {
			return err
		}
		sides := make(map[string]func() (float64, error))
		for _, s := range []struct{ name, at, which string }{
			{"twin", twinAt, "kept"}, {"woken", rig.Endpoint, "kept"}, {"copy", copyAt, "kept"}, {"fresh", copyAt, "fresh"},
		} {
			sides[s.name] = func() (float64, error) { return carries(ctx, w, s.at, s.which, mib) }
		}
		for _, row := range []struct{ name, ours, other, what string }{
			{restored, "copy", "twin", "never frozen"},
			{restored + "/fresh", "copy", "fresh", "a new connection in the copy"},
			{woken, "woken", "twin", "never frozen"},
		} {
			ours, other, err := rig.Rates(turns, sides[row.ours], sides[row.other])
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			b.Report.Add(report.Row{Name: row.name, Unit: "MiB/s", Ours: ours, Other: other, OtherName: row.what, Goal: -0.9})
		}
		var errs []error
		for _, app := range []string{"subject", "twin", "copy"} {
			errs = append(errs, w.Remove(ctx, app))
		}
		return errors.Join(errs...)
	})
}

// copied restores copies of the app, one after the other, measures what the connection of
// each carries at first, when nobody knows how much that may be, and leaves the last one.
func copied(ctx context.Context, w *rig.World, b *rig.Bench, name, at string) error {
	if _, err := w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "s"}, nil); err != nil {
		return err
	}
	var kept, fresh []float64
	for pass := range b.Passes {
		if pass > 0 {
			if err := w.Remove(ctx, "copy"); err != nil {
				return err
			}
		}
		if _, err := w.TimedCLI(ctx, "restore", "s", "--as", "copy", "--endpoint", at); err != nil {
			return err
		}
		g, err := w.DialGauge(ctx, at)
		if err != nil {
			return err
		}
		var took [2]time.Duration
		for i, which := range []string{"kept", "fresh"} {
			if took[i], err = g.Do("stream", which, 1); err != nil {
				g.Close()
				return err
			}
		}
		g.Close()
		kept, fresh = append(kept, rig.MS(took[0])), append(fresh, rig.MS(took[1]))
	}
	b.Report.Add(report.Row{Name: name + "/first-MiB", Unit: "ms", Ours: report.Median(kept), Other: report.Median(fresh), OtherName: "a new connection in the copy"})
	return nil
}

// carries returns how many MiB/s a connection carries inside the app there.
func carries(ctx context.Context, w *rig.World, at, which string, mib int) (float64, error) {
	g, err := w.DialGauge(ctx, at)
	if err != nil {
		return 0, err
	}
	defer g.Close()
	took, err := g.Do("stream", which, mib)
	return float64(mib) / took.Seconds(), err
}
