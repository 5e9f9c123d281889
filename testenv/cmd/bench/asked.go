package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// asked measures how long a client waits whose request comes while a server is being hibernated for the
// first time, at moments spread over the hibernation: with --if-quiet, which the request calls off,
// beside a hibernation that goes on, after which the request wakes the server.
func asked(ctx context.Context, b *rig.Bench) error {
	for _, mib := range b.Sizes() {
		name := fmt.Sprintf("freeze/asked/memory=%dMiB", mib)
		if !b.Wants(name) {
			continue
		}
		moments := 2 * b.Passes
		var ours, other []float64
		err := rig.WithWorld(ctx, func(w *rig.World) error {
			took, err := hibernated(ctx, w, mib)
			if err != nil {
				return err
			}
			for i := range moments {
				at := took * time.Duration(i) / time.Duration(moments)
				off, err := askedAt(ctx, w, mib, at, true)
				if err != nil {
					return err
				}
				on, err := askedAt(ctx, w, mib, at, false)
				if err != nil {
					return err
				}
				ours, other = append(ours, off), append(other, on)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		row := report.Row{Name: name, Unit: "ms longest wait", Ours: slices.Max(ours), Other: slices.Max(other), OtherName: "not called off"}
		if mib >= 1024 {
			row.Goal = 0.1
		}
		b.Report.Add(row)
		b.Report.Add(report.Row{Name: name + "/median", Unit: "ms", Ours: report.Median(ours), Other: report.Median(other), OtherName: "not called off"})
	}
	return nil
}

// askedAt has a new server hibernated, asks it some time after that was begun, and returns how long the
// answer took, in ms.
func askedAt(ctx context.Context, w *rig.World, mib int, after time.Duration, ifQuiet bool) (float64, error) {
	if err := w.Subject(ctx, "subject", rig.Endpoint, mib); err != nil {
		return 0, err
	}
	conn, err := w.Dial(ctx, rig.Endpoint)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := rig.Ping(conn); err != nil { // it has its memory
		return 0, err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject", IfQuiet: ifQuiet}, nil)
		ended <- err
	}()
	rig.Rest(ctx, after)
	took, err := rig.Ping(conn)
	if err != nil {
		return 0, err
	}
	if err := <-ended; err != nil && !errdefs.IsAborted(err) {
		return 0, err
	}
	return rig.MS(took), w.Remove(ctx, "subject")
}
