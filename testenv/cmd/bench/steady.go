package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// steady measures what a woken app costs afterwards. Its goals are for an app that
// is warm, that is, has its memory again.
func steady(ctx context.Context, b *bench) error {
	return errors.Join(touch(ctx, b), steadyRedis(ctx, b), steadyPostgres(ctx, b))
}

// touch measures all memory of a woken process, for the first time and again,
// beside one that was never frozen. Then what no mapping can save, and copying
// pays for earlier: a wake and the first use of all memory, beside stock CRIU's
// restore and the same use.
func touch(ctx context.Context, b *bench) error {
	mib, passes := 1024, min(b.passes, 3)
	if b.small {
		mib = 64
	}
	name := fmt.Sprintf("steady/memory=%dMiB", mib)
	if !b.wants(name) {
		return nil
	}
	var ours, other touches
	err := withWorld(ctx, func(w *world) error {
		fresh, err := w.gauge(ctx, "fresh", "10.77.0.8", mib)
		if err != nil {
			return err
		}
		defer fresh.close()
		woken, err := w.gauge(ctx, "woken", endpoint, mib)
		if err != nil {
			return err
		}
		defer woken.close()
		for range passes {
			if err := other.add(fresh, 0); err != nil {
				return err
			}
			if _, err := w.api.Hibernate(ctx, &api.HibernateRequest{Name: "woken"}, nil); err != nil {
				return err
			}
			s, err := w.command(ctx, "wake", "woken")
			if err != nil {
				return err
			}
			if err := ours.add(woken, s.command); err != nil {
				return err
			}
		}
		return errors.Join(w.remove(ctx, "woken"), w.remove(ctx, "fresh"))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var stock touches
	if err := withWorld(ctx, func(w *world) error { return w.stockTouches(ctx, &stock, mib, passes) }); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, t := range touchOrder {
		row := Row{Name: name + "/" + t.name, Unit: "ms", Ours: median(ours.took[t.name]), Other: median(other.took[t.name]), OtherName: "never frozen"}
		if t.warm {
			row.Goal = 1 / 0.95
		}
		b.report.add(row)
	}
	b.report.add(Row{
		Name: name + "/back-and-used", Unit: "ms", Ours: median(ours.whole), Other: median(stock.whole),
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

func (t *touches) add(g *gauge, back time.Duration) error {
	if t.took == nil {
		t.took = make(map[string][]float64)
	}
	whole := back
	for _, o := range touchOrder {
		var values []float64
		for range 5 {
			d, err := g.do(o.command)
			if err != nil {
				return err
			}
			values = append(values, ms(d))
			if !o.warm { // there is but one first time
				whole += d
				break
			}
		}
		t.took[o.name] = append(t.took[o.name], percentile(values, 25))
	}
	t.whole = append(t.whole, ms(whole))
	return nil
}

// stockTouches has stock CRIU bring the process back.
func (w *world) stockTouches(ctx context.Context, t *touches, mib, passes int) error {
	path, err := w.Install(ctx, "gauge")
	if err != nil {
		return err
	}
	s, err := w.stockProgram(ctx, path, "-memory", fmt.Sprint(mib))
	if err != nil {
		return err
	}
	defer s.end()
	g, err := w.dialGauge(ctx, loopback)
	if err != nil {
		return err
	}
	g.close()
	if _, err := s.dump(ctx, "skip", "--tcp-close"); err != nil {
		return err
	}
	for range passes {
		took, err := s.restore(ctx, "--tcp-close")
		if err != nil {
			return err
		}
		if g, err = w.dialGauge(ctx, loopback); err != nil {
			return err
		}
		err = t.add(g, took)
		g.close()
		s.end()
		if err != nil {
			return err
		}
	}
	return nil
}

// rates has two sides of a comparison take turns, each beginning as often as the
// other, and returns the rate of both. The quarter of the turns that were disturbed
// least counts: what differs is far less than what else goes on in a machine.
func rates(n int, ours, other func() (float64, error)) (float64, float64, error) {
	var values [2][]float64
	sides := []func() (float64, error){ours, other}
	order := []int{0, 1}
	for range n {
		for _, i := range order {
			v, err := sides[i]()
			if err != nil {
				return 0, 0, err
			}
			values[i] = append(values[i], v)
		}
		slices.Reverse(order)
	}
	return percentile(values[0], 75), percentile(values[1], 75), nil
}
