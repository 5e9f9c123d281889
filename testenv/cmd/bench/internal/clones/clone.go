// Package clones measures many clones of one app, and clones that stand ready in a pool, beside what
// stock CRIU makes of the same app.
package clones

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// original is the app that templates are made of.
const original = "original"

// withTemplate runs fn on a host with a template of a redis that has data.
func withTemplate(ctx context.Context, mib int, fn func(w *rig.World) error) error {
	return rig.WithWorld(ctx, func(w *rig.World) error {
		r, err := w.Redis(ctx, original, rig.Endpoint)
		if err != nil {
			return err
		}
		err = r.Populate(mib)
		r.Close()
		if err != nil {
			return err
		}
		if _, err := w.API.CreateTemplate(ctx, &api.CreateTemplateRequest{Name: "tmpl", App: original}, nil); err != nil {
			return err
		}
		if err := w.Remove(ctx, original); err != nil {
			return err
		}
		if err := fn(w); err != nil {
			return err
		}
		return w.API.RemoveTemplate(ctx, "tmpl")
	})
}

// Many measures many clones of one redis: how long each takes, and what memory
// it costs. Beside it stock CRIU restores the same redis as often as there is
// memory for it, each time in network and process namespaces of its own; and a
// redis starts and loads the same data.
func Many(ctx context.Context, b *rig.Bench) error {
	n, mib, passes := 100, 1024, min(b.Passes, 3)
	if b.Small {
		n, mib = 2, 64
	}
	name := fmt.Sprintf("clone/n=%d,memory=%dMiB", n, mib)
	if !b.Wants(name) {
		return nil
	}
	var took, answered []float64
	var idle usage
	err := withTemplate(ctx, mib, func(w *rig.World) error {
		for range passes {
			m, err := cloneAll(ctx, w, n, mib)
			if err != nil {
				return err
			}
			took, answered = append(took, m.made), append(answered, m.answered)
			idle = m.idle
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var stock stockCopies
	err = rig.WithWorld(ctx, func(w *rig.World) (err error) {
		stock, err = copies(ctx, w, b, mib)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	restored := fmt.Sprintf("mean of %d criu restores", stock.n)
	for _, row := range []report.Row{
		{Name: "made", Unit: "ms a clone", Ours: report.Median(took), Other: stock.answered, OtherName: restored, Goal: 40, GoalOn: "ours"},
		{Name: "answered", Unit: "ms a clone", Ours: report.Median(answered), Other: stock.answered, OtherName: restored},
		{Name: "loaded", Unit: "ms a clone", Ours: report.Median(answered), Other: stock.loaded, OtherName: "start redis, load the data"},
		{Name: "private", Unit: "MiB a clone", Ours: idle.private, Other: stock.idle.private, OtherName: restored, Goal: 8, GoalOn: "ours"},
		{Name: "pss", Unit: "MiB a clone", Ours: idle.pss, Other: stock.idle.pss, OtherName: restored, Goal: 8, GoalOn: "ours"},
		{Name: "cgroup", Unit: "MiB a clone", Ours: idle.cgroup, OtherName: "-", Goal: 8, GoalOn: "ours"},
		{Name: "host", Unit: "MiB a clone", Ours: idle.host, Other: stock.idle.host, OtherName: restored},
	} {
		row.Name = name + "/" + row.Name
		b.Report.Add(row)
	}
	return nil
}

// usage is what an idle server costs, in MiB.
type usage struct {
	private float64 // pages that no other process has
	pss     float64 // and its share of those that others have too
	cgroup  float64 // what its cgroup is charged for
	host    float64 // how much less memory the host has: namespaces, page tables and all
}

// cloned is what n clones took, in ms for each, by the clock on the wall.
type cloned struct {
	made, answered float64
	idle           usage
}

// cloneAll makes n clones, uses each once, measures and removes them.
func cloneAll(ctx context.Context, w *rig.World, n, mib int) (cloned, error) {
	var m cloned
	free, err := available()
	if err != nil {
		return m, err
	}
	began := time.Now()
	apps, err := clone(ctx, w, &api.CloneRequest{Template: "tmpl", Count: int32(n)})
	if err != nil {
		return m, err
	}
	m.made = rig.MS(time.Since(began)) / float64(n)
	if len(apps) != n {
		return m, fmt.Errorf("%d clones instead of %d", len(apps), n)
	}
	err = concurrently(apps, func(a *api.App) error {
		r, err := w.DialRedis(ctx, a.GetEndpoint())
		if err != nil {
			return err
		}
		defer r.Close()
		return r.Check(mib)
	})
	if err != nil {
		return m, err
	}
	m.answered = rig.MS(time.Since(began)) / float64(n)
	if err := settle(ctx); err != nil {
		return m, err
	}
	left, err := available()
	if err != nil {
		return m, err
	}
	m.idle.host = (free - left) / float64(n)
	for _, a := range apps {
		u, err := processUse(int(a.GetPid()))
		if err != nil {
			return m, err
		}
		m.idle.private += u.private / float64(n)
		m.idle.pss += u.pss / float64(n)
	}
	charged, err := w.Charged(ctx)
	if err != nil {
		return m, err
	}
	m.idle.cgroup = float64(charged) / 1024 / float64(n)
	return m, concurrently(apps, func(a *api.App) error { return w.Remove(ctx, a.GetName()) })
}

// clone makes clones and returns those that there are.
func clone(ctx context.Context, w *rig.World, req *api.CloneRequest) ([]*api.App, error) {
	var apps []*api.App
	_, err := w.API.Clone(ctx, req, client.CloneWatch{Result: func(r *api.CloneResult) {
		if r.GetApp() != nil {
			apps = append(apps, r.GetApp())
		}
	}})
	return apps, err
}

// concurrently runs fn for all apps, several at a time.
func concurrently(apps []*api.App, fn func(*api.App) error) error {
	var mu sync.Mutex
	var errs []error
	var g errgroup.Group
	g.SetLimit(8)
	for _, a := range apps {
		g.Go(func() error {
			if err := fn(a); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", a.GetName(), err))
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), errors.Join(errs...))
}

// settle gives servers the time to do what they do while idle: redis looks after
// itself ten times a second.
func settle(ctx context.Context) error {
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// processUse is what a process uses of memory.
func processUse(pid int) (usage, error) {
	m, err := rig.Rollup(pid)
	return usage{
		private: float64(m["Private_Clean"]+m["Private_Dirty"]) / 1024,
		pss:     float64(m["Pss"]) / 1024,
	}, err
}

// available is what the machine has left, in MiB.
func available() (float64, error) {
	m, err := rig.Sizes("/proc/meminfo")
	return float64(m["MemAvailable"]) / 1024, err
}
