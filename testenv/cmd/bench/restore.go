package main

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// restores measures how long it takes to bring back a process by its memory, from
// a snapshot and from a hibernation. Beside it stock CRIU restores the same
// program and, whatever the size, one that keeps no memory: both without any
// namespace, mount or cgroup of their own, which is less than an app has.
func restores(ctx context.Context, b *rig.Bench) error {
	for _, mib := range b.Sizes() {
		if name := fmt.Sprintf("memory=%dMiB", mib); b.Wants("restore/snapshot/"+name) || b.Wants("restore/wake/"+name) {
			if err := restoreOf(ctx, b, mib); err != nil {
				return fmt.Errorf("restore of %d MiB: %w", mib, err)
			}
		}
	}
	return nil
}

// restoreOf measures one size.
func restoreOf(ctx context.Context, b *rig.Bench, mib int) error {
	var snapshots, wakes []rig.Spent
	var same, empty []float64
	err := rig.WithWorld(ctx, func(w *rig.World) error {
		if err := saved(ctx, w, mib); err != nil {
			return err
		}
		conns, err := w.Crowd(ctx, rig.Endpoint, 1)
		if err != nil {
			return err
		}
		defer rig.CloseAll(conns)
		big, err := stockSaved(ctx, w, mib)
		if err != nil {
			return err
		}
		small, err := stockSaved(ctx, w, 0)
		if err != nil {
			return err
		}
		// CRIU leaves its images to the kernel to write, some time: not in a pass.
		unix.Sync()
		for range b.Passes {
			for _, s := range []struct {
				*rig.Stock
				to *[]float64
			}{{big, &same}, {small, &empty}} {
				took, err := s.Restore(ctx, "--tcp-close")
				s.End()
				if err != nil {
					return err
				}
				*s.to = append(*s.to, rig.MS(took))
			}
			took, err := restoreSnapshot(ctx, w)
			if err != nil {
				return err
			}
			snapshots = append(snapshots, took)
			if took, err = wakeByCommand(ctx, w); err != nil {
				return err
			}
			if err := use(conns); err != nil {
				return err
			}
			wakes = append(wakes, took)
		}
		return w.Remove(ctx, "subject")
	})
	if err != nil {
		return err
	}
	addRestore(b, fmt.Sprintf("restore/snapshot/memory=%dMiB", mib), mib, snapshots, report.Median(same), report.Median(empty))
	addRestore(b, fmt.Sprintf("restore/wake/memory=%dMiB", mib), mib, wakes, report.Median(same), report.Median(empty))
	return nil
}

// addRestore adds the rows of one kind of restore.
func addRestore(b *rig.Bench, name string, mib int, all []rig.Spent, same, empty float64) {
	var steps, commands []float64
	for _, s := range all {
		steps, commands = append(steps, rig.MS(s.Step)), append(commands, rig.MS(s.Command))
	}
	for _, part := range []struct {
		name string
		ours float64
	}{{"step", report.Median(steps)}, {"command", report.Median(commands)}} {
		row := report.Row{Name: name + "/" + part.name, Unit: "ms", Ours: part.ours, Other: same, OtherName: "criu restore, same process"}
		if mib >= 1024 {
			row.Goal = 1.0 / 30
		}
		b.Report.Add(row)
		b.Report.Add(report.Row{
			Name: name + "/" + part.name + "/empty", Unit: "ms", Ours: part.ours, Other: empty,
			OtherName: "criu restore, process without memory", Goal: 2,
		})
	}
}

// saved runs the server as an app and takes a snapshot of it, without connections.
func saved(ctx context.Context, w *rig.World, mib int) error {
	if err := w.Subject(ctx, "subject", rig.Endpoint, mib); err != nil {
		return err
	}
	if err := w.Answers(ctx, rig.Endpoint); err != nil {
		return err
	}
	_, err := w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "saved"}, nil)
	return err
}

// stockSaved has stock CRIU save the server, and so end it.
func stockSaved(ctx context.Context, w *rig.World, mib int) (*rig.Stock, error) {
	s, err := w.StockSubject(ctx, mib)
	if err != nil {
		return nil, err
	}
	defer s.End()
	if err := w.Answers(ctx, rig.Loopback); err != nil {
		return nil, err
	}
	if _, err := s.Dump(ctx, "skip", "--tcp-close"); err != nil {
		return nil, err
	}
	return s, nil
}

// restoreSnapshot makes another app of the snapshot, uses and removes it.
func restoreSnapshot(ctx context.Context, w *rig.World) (rig.Spent, error) {
	const other = "10.77.0.9"
	s, err := w.TimedCLI(ctx, "restore", "saved", "--as", "other", "--endpoint", other)
	if err != nil {
		return s, err
	}
	if err := w.Answers(ctx, other); err != nil {
		return s, err
	}
	return s, w.Remove(ctx, "other")
}

// wakeByCommand hibernates the app and wakes it.
func wakeByCommand(ctx context.Context, w *rig.World) (rig.Spent, error) {
	if _, err := w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil); err != nil {
		return rig.Spent{}, err
	}
	return w.TimedCLI(ctx, "wake", "subject")
}
