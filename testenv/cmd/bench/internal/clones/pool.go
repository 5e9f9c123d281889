package clones

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// Pool measures how long it takes to be handed out a clone that stands ready,
// beside what starting the smallest of all programs takes. The pool is full, and
// nobody fills it, whenever one is asked for.
func Pool(ctx context.Context, b *rig.Bench) error {
	size, n, mib := 4, 120, 1024
	if b.Small {
		size, n, mib = 1, 3, 64
	}
	name := fmt.Sprintf("pool/memory=%dMiB", mib)
	if !b.Wants(name) {
		return nil
	}
	var handed, answered, started []float64
	err := withTemplate(ctx, mib, func(w *rig.World) error {
		if _, err := w.API.SetPool(ctx, &api.SetPoolRequest{Template: "tmpl", Size: int32(size)}); err != nil {
			return err
		}
		for range n {
			if err := poolFull(ctx, w, size); err != nil {
				return err
			}
			began := time.Now()
			apps, err := clone(ctx, w, &api.CloneRequest{Template: "tmpl", Count: 1, Pool: api.PoolUse_POOL_USE_ONLY})
			if err != nil {
				return err
			}
			handed = append(handed, rig.MS(time.Since(began)))
			if len(apps) != 1 {
				return fmt.Errorf("%d clones instead of 1", len(apps))
			}
			r, err := w.DialRedis(ctx, apps[0].GetEndpoint())
			if err != nil {
				return err
			}
			answered = append(answered, rig.MS(time.Since(began)))
			err = r.Check(mib)
			r.Close()
			if err != nil {
				return err
			}
			if err := w.Remove(ctx, apps[0].GetName()); err != nil {
				return err
			}
			if err := poolFull(ctx, w, size); err != nil {
				return err
			}
			began = time.Now()
			if err := exec.CommandContext(ctx, "true").Run(); err != nil {
				return err
			}
			started = append(started, rig.MS(time.Since(began)))
		}
		_, err := w.API.SetPool(ctx, &api.SetPoolRequest{Template: "tmpl"})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	const other = "fork and exec of true"
	b.Report.Add(report.Row{Name: name + "/handed-out", Unit: "ms p99", Ours: report.Percentile(handed, 99), Other: report.Percentile(started, 99), OtherName: other, Goal: 5})
	b.Report.Add(report.Row{Name: name + "/handed-out/p50", Unit: "ms p50", Ours: report.Median(handed), Other: report.Median(started), OtherName: other, Goal: 5})
	b.Report.Add(report.Row{Name: name + "/answered", Unit: "ms p99", Ours: report.Percentile(answered, 99), Other: report.Percentile(started, 99), OtherName: other})
	return nil
}

// poolFull waits until all of a pool stands ready.
func poolFull(ctx context.Context, w *rig.World, size int) error {
	return rig.Until(ctx, time.Minute, func() error {
		t, err := w.API.ShowTemplate(ctx, "tmpl")
		if err == nil && int(t.GetPoolReady()) != size {
			err = fmt.Errorf("%d of %d clones stand ready: %s", t.GetPoolReady(), size, t.GetPoolError())
		}
		return err
	})
}
