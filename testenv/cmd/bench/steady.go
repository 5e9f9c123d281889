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

// steady measures what a woken app costs afterwards. Its goals are for an app that
// is warm, that is, has its memory again.
func steady(ctx context.Context, b *rig.Bench) error {
	return errors.Join(touch(ctx, b), steadyRedis(ctx, b), steadyPostgres(ctx, b))
}

// touch measures all memory of a woken process, for the first time and again,
// beside one that was never frozen. Then what no mapping can save, and copying
// pays for earlier: a wake and the first use of all memory, beside stock CRIU's
// restore and the same use.
func touch(ctx context.Context, b *rig.Bench) error {
	mib, passes := 1024, min(b.Passes, 3)
	if b.Small {
		mib = 64
	}
	name := fmt.Sprintf("steady/memory=%dMiB", mib)
	if !b.Wants(name) {
		return nil
	}
	var ours, other touches
	err := rig.WithWorld(ctx, func(w *rig.World) error {
		fresh, err := w.Gauge(ctx, "fresh", "10.77.0.8", mib)
		if err != nil {
			return err
		}
		defer fresh.Close()
		woken, err := w.Gauge(ctx, "woken", rig.Endpoint, mib)
		if err != nil {
			return err
		}
		defer woken.Close()
		for range passes {
			if err := other.add(fresh, 0); err != nil {
				return err
			}
			if _, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "woken"}, nil); err != nil {
				return err
			}
			s, err := w.TimedCLI(ctx, "wake", "woken")
			if err != nil {
				return err
			}
			if err := ours.add(woken, s.Command); err != nil {
				return err
			}
		}
		return errors.Join(w.Remove(ctx, "woken"), w.Remove(ctx, "fresh"))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var stock touches
	if err := rig.WithWorld(ctx, func(w *rig.World) error { return stockTouches(ctx, w, &stock, mib, passes) }); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, t := range touchOrder {
		row := report.Row{Name: name + "/" + t.name, Unit: "ms", Ours: report.Median(ours.took[t.name]), Other: report.Median(other.took[t.name]), OtherName: "never frozen"}
		if t.warm {
			row.Goal = 1 / 0.95
		}
		b.Report.Add(row)
	}
	b.Report.Add(report.Row{
		Name: name + "/back-and-used", Unit: "ms", Ours: report.Median(ours.whole), Other: report.Median(stock.whole),
		OtherName: "criu restore, and the same use",
	})
	return nil
}

// touchOrder is what is done to the memory of a process that is back, in order:
// its pages are first read where they are shared, and then copied by being written.
var touchOrder = []struct {
	name, command string
	warm          bool
}{
	{"first-read", "read", false},
	{"read-shared", "read", true},
	{"scan-shared", "scan", true},
	{"first-write", "write", false},
	{"read", "read", true},
	{"write", "write", true},
	{"scan", "scan", true},
}

// touches is what was measured of one process, in ms.
type touches struct {
	took  map[string][]float64
	whole []float64 // until it was back, its memory read, and written
}

func (t *touches) add(g *rig.Gauge, back time.Duration) error {
	if t.took == nil {
		t.took = make(map[string][]float64)
	}
	whole := back
	for _, o := range touchOrder {
		var values []float64
		for range 5 {
			d, err := g.Do(o.command)
			if err != nil {
				return err
			}
			values = append(values, rig.MS(d))
			if !o.warm { // there is but one first time
				whole += d
				break
			}
		}
		t.took[o.name] = append(t.took[o.name], report.Percentile(values, 25))
	}
	t.whole = append(t.whole, rig.MS(whole))
	return nil
}

// stockTouches has stock CRIU bring the process back.
func stockTouches(ctx context.Context, w *rig.World, t *touches, mib, passes int) error {
	path, err := w.Install(ctx, "gauge")
	if err != nil {
		return err
	}
	s, err := w.StockProgram(ctx, path, "-memory", fmt.Sprint(mib))
	if err != nil {
		return err
	}
	defer s.End()
	g, err := w.DialGauge(ctx, rig.Loopback)
	if err != nil {
		return err
	}
	g.Close()
	if _, err := s.Dump(ctx, "skip", "--tcp-close"); err != nil {
		return err
	}
	for range passes {
		took, err := s.Restore(ctx, "--tcp-close")
		if err != nil {
			return err
		}
		if g, err = w.DialGauge(ctx, rig.Loopback); err != nil {
			return err
		}
		err = t.add(g, took)
		g.Close()
		s.End()
		if err != nil {
			return err
		}
	}
	return nil
}
