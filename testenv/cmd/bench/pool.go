package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// pool measures how long it takes to be handed out a clone that stands ready,
// beside what starting the smallest of all programs takes. The pool is full, and
// nobody fills it, whenever one is asked for.
func pool(ctx context.Context, b *bench) error {
	size, n, mib := 4, 120, 1024
	if b.small {
		size, n, mib = 1, 3, 64
	}
	name := fmt.Sprintf("pool/memory=%dMiB", mib)
	if !b.wants(name) {
		return nil
	}
	var handed, answered, started []float64
	err := withTemplate(ctx, mib, func(w *world) error {
		if _, err := w.api.SetPool(ctx, &api.SetPoolRequest{Template: "tmpl", Size: int32(size)}); err != nil {
			return err
		}
		for range n {
			if err := w.poolFull(ctx, size); err != nil {
				return err
			}
			began := time.Now()
			apps, err := w.clone(ctx, &api.CloneRequest{Template: "tmpl", Count: 1, Pool: api.PoolUse_POOL_USE_ONLY})
			if err != nil {
				return err
			}
			handed = append(handed, ms(time.Since(began)))
			if len(apps) != 1 {
				return fmt.Errorf("%d clones instead of 1", len(apps))
			}
			r, err := w.dialRedis(ctx, apps[0].GetEndpoint())
			if err != nil {
				return err
			}
			answered = append(answered, ms(time.Since(began)))
			err = r.check(mib)
			r.close()
			if err != nil {
				return err
			}
			if err := w.remove(ctx, apps[0].GetName()); err != nil {
				return err
			}
			if err := w.poolFull(ctx, size); err != nil {
				return err
			}
			began = time.Now()
			if err := exec.CommandContext(ctx, "true").Run(); err != nil {
				return err
			}
			started = append(started, ms(time.Since(began)))
		}
		_, err := w.api.SetPool(ctx, &api.SetPoolRequest{Template: "tmpl"})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	const other = "fork and exec of true"
	b.report.add(Row{Name: name + "/handed-out", Unit: "ms p99", Ours: percentile(handed, 99), Other: percentile(started, 99), OtherName: other, Goal: 5})
	b.report.add(Row{Name: name + "/handed-out/p50", Unit: "ms p50", Ours: median(handed), Other: median(started), OtherName: other, Goal: 5})
	b.report.add(Row{Name: name + "/answered", Unit: "ms p99", Ours: percentile(answered, 99), Other: percentile(started, 99), OtherName: other})
	return nil
}

// poolFull waits until all of a pool stands ready.
func (w *world) poolFull(ctx context.Context, size int) error {
	return until(ctx, time.Minute, func() error {
		t, err := w.api.ShowTemplate(ctx, "tmpl")
		if err == nil && int(t.GetPoolReady()) != size {
			err = fmt.Errorf("%d of %d clones stand ready: %s", t.GetPoolReady(), size, t.GetPoolError())
		}
		return err
	})
}
