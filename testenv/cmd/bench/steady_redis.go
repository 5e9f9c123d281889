package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// The data of the redis under load.
const (
	loadKeys  = 250_000
	loadBytes = 1000
)

// steadyRedis measures a redis that was woken beside one that was never frozen.
func steadyRedis(ctx context.Context, b *bench) error {
	type mix struct {
		command  string
		pipeline int
	}
	mixes := []mix{{"set", 1}, {"get", 1}, {"set", 16}, {"get", 16}}
	name := func(m mix) string { return fmt.Sprintf("steady/redis/%s/pipeline=%d", m.command, m.pipeline) }
	if !slices.ContainsFunc(mixes, func(m mix) bool { return b.wants(name(m)) }) {
		return nil
	}
	keys, rounds, slice := loadKeys, 30, 0.5 // s
	if b.small {
		keys, rounds, slice = loadKeys/10, 1, 0.2
	}
	const fresh = "10.77.0.8"
	return withWorld(ctx, func(w *world) error {
		load := redisLoad{command: "set", requests: 2 * keys, pipeline: 64, keys: keys, bytes: loadBytes}
		for app, at := range map[string]string{"woken": endpoint, "fresh": fresh} {
			r, err := w.redis(ctx, app, at)
			if err != nil {
				return err
			}
			r.close()
			load.at = at
			if _, err := load.run(ctx, w); err != nil {
				return err
			}
		}
		if err := w.cycle(ctx, "woken"); err != nil {
			return err
		}
		compare := func(m mix, rounds int, seconds float64) (ours, other float64, err error) {
			probe := redisLoad{at: fresh, command: m.command, requests: 5000 * m.pipeline, pipeline: m.pipeline, keys: keys, bytes: loadBytes}
			rate, err := probe.run(ctx, w)
			if err != nil {
				return 0, 0, err
			}
			side := func(at string) func() (float64, error) {
				l := probe
				l.at, l.requests = at, max(int(rate*seconds), 100*m.pipeline)
				return func() (float64, error) { return l.run(ctx, w) }
			}
			return rates(rounds, side(endpoint), side(fresh))
		}
		// The first run after the wake copies what it writes.
		ours, other, err := compare(mix{"set", 16}, 1, slice)
		if err != nil {
			return err
		}
		b.report.add(Row{Name: "steady/redis/cold", Unit: "requests/s", Ours: ours, Other: other, OtherName: "never frozen"})
		load.at = endpoint // every page that it writes to is its own then
		if _, err := load.run(ctx, w); err != nil {
			return err
		}
		for _, m := range mixes {
			if !b.wants(name(m)) {
				continue
			}
			ours, other, err := compare(m, rounds, slice)
			if err != nil {
				return err
			}
			b.report.add(Row{Name: name(m), Unit: "requests/s", Ours: ours, Other: other, OtherName: "never frozen", Goal: -0.95})
		}
		return errors.Join(w.remove(ctx, "woken"), w.remove(ctx, "fresh"))
	})
}
