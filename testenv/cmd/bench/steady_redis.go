package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// The data of the redis under load.
const (
	loadKeys  = 250_000
	loadBytes = 1000
)

// steadyRedis measures a redis that was woken beside one that was never frozen.
func steadyRedis(ctx context.Context, b *rig.Bench) error {
	type mix struct {
		command  string
		pipeline int
	}
	mixes := []mix{{"set", 1}, {"get", 1}, {"set", 16}, {"get", 16}}
	name := func(m mix) string { return fmt.Sprintf("steady/redis/%s/pipeline=%d", m.command, m.pipeline) }
	if !slices.ContainsFunc(mixes, func(m mix) bool { return b.Wants(name(m)) }) {
		return nil
	}
	keys, rounds, slice := loadKeys, 30, 0.5 // s
	if b.Small {
		keys, rounds, slice = loadKeys/10, 1, 0.2
	}
	const fresh = "10.77.0.8"
	return rig.WithWorld(ctx, func(w *rig.World) error {
		load := rig.RedisLoad{Command: "set", Requests: 2 * keys, Pipeline: 64, Keys: keys, Bytes: loadBytes}
		for app, at := range map[string]string{"woken": rig.Endpoint, "fresh": fresh} {
			r, err := w.Redis(ctx, app, at)
			if err != nil {
				return err
			}
			r.Close()
			load.At = at
			if _, err := load.Run(ctx, w); err != nil {
				return err
			}
		}
		if err := w.Cycle(ctx, "woken"); err != nil {
			return err
		}
		compare := func(m mix, rounds int, seconds float64) (ours, other float64, err error) {
			probe := rig.RedisLoad{At: fresh, Command: m.command, Requests: 5000 * m.pipeline, Pipeline: m.pipeline, Keys: keys, Bytes: loadBytes}
			rate, err := probe.Run(ctx, w)
			if err != nil {
				return 0, 0, err
			}
			side := func(at string) func() (float64, error) {
				l := probe
				l.At, l.Requests = at, max(int(rate*seconds), 100*m.pipeline)
				return func() (float64, error) { return l.Run(ctx, w) }
			}
			return rig.Rates(rounds, side(rig.Endpoint), side(fresh))
		}
		// The first run after the wake copies what it writes.
		ours, other, err := compare(mix{"set", 16}, 1, slice)
		if err != nil {
			return err
		}
		b.Report.Add(report.Row{Name: "steady/redis/cold", Unit: "requests/s", Ours: ours, Other: other, OtherName: "never frozen"})
		load.At = rig.Endpoint // every page that it writes to is its own then
		if _, err := load.Run(ctx, w); err != nil {
			return err
		}
		for _, m := range mixes {
			if !b.Wants(name(m)) {
				continue
			}
			ours, other, err := compare(m, rounds, slice)
			if err != nil {
				return err
			}
			b.Report.Add(report.Row{Name: name(m), Unit: "requests/s", Ours: ours, Other: other, OtherName: "never frozen", Goal: -0.95})
		}
		return errors.Join(w.Remove(ctx, "woken"), w.Remove(ctx, "fresh"))
	})
}
