package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
)

// spent is how long a restore or a wake took.
type spent struct {
	// step is from CRIU's start to running processes: its run, what has to be
	// edited in the images, and what else is done while it starts.
	step time.Duration
	// command is that of snapctl, from its execution to its exit: step, checks of
	// the images, the sandbox, records, the way to the daemon and back.
	command time.Duration
}

// restores measures how long it takes to bring back a process by its memory, from
// a snapshot and from a hibernation. Beside it stock CRIU restores the same
// program and, whatever the size, one that keeps no memory: both without any
// namespace, mount or cgroup of their own, which is less than an app has.
func restores(ctx context.Context, b *bench) error {
	for _, mib := range b.sizes() {
		if name := fmt.Sprintf("memory=%dMiB", mib); b.wants("restore/snapshot/"+name) || b.wants("restore/wake/"+name) {
			if err := b.restoreOf(ctx, mib); err != nil {
				return fmt.Errorf("restore of %d MiB: %w", mib, err)
			}
		}
	}
	return nil
}

// restoreOf measures one size.
func (b *bench) restoreOf(ctx context.Context, mib int) error {
	var snapshots, wakes []spent
	var same, empty []float64
	err := withWorld(ctx, func(w *world) error {
		if err := w.saved(ctx, mib); err != nil {
			return err
		}
		conns, err := w.crowd(ctx, endpoint, 1)
		if err != nil {
			return err
		}
		defer closeAll(conns)
		big, err := w.stockSaved(ctx, mib)
		if err != nil {
			return err
		}
		small, err := w.stockSaved(ctx, 0)
		if err != nil {
			return err
		}
		// CRIU leaves its images to the kernel to write, some time: not in a pass.
		unix.Sync()
		for range b.passes {
			for _, s := range []struct {
				*stock
				to *[]float64
			}{{big, &same}, {small, &empty}} {
				took, err := s.restore(ctx, "--tcp-close")
				s.end()
				if err != nil {
					return err
				}
				*s.to = append(*s.to, ms(took))
			}
			took, err := w.restoreSnapshot(ctx)
			if err != nil {
				return err
			}
			snapshots = append(snapshots, took)
			if took, err = w.wakeByCommand(ctx); err != nil {
				return err
			}
			if err := use(conns); err != nil {
				return err
			}
			wakes = append(wakes, took)
		}
		return w.remove(ctx, "subject")
	})
	if err != nil {
		return err
	}
	b.addRestore(fmt.Sprintf("restore/snapshot/memory=%dMiB", mib), mib, snapshots, median(same), median(empty))
	b.addRestore(fmt.Sprintf("restore/wake/memory=%dMiB", mib), mib, wakes, median(same), median(empty))
	return nil
}

// addRestore adds the rows of one kind of restore.
func (b *bench) addRestore(name string, mib int, all []spent, same, empty float64) {
	var steps, commands []float64
	for _, s := range all {
		steps, commands = append(steps, ms(s.step)), append(commands, ms(s.command))
	}
	for _, part := range []struct {
		name string
		ours float64
	}{{"step", median(steps)}, {"command", median(commands)}} {
		row := Row{Name: name + "/" + part.name, Unit: "ms", Ours: part.ours, Other: same, OtherName: "criu restore, same process"}
		if mib >= 1024 {
			row.Goal = 1.0 / 30
		}
		b.report.add(row)
		b.report.add(Row{
			Name: name + "/" + part.name + "/empty", Unit: "ms", Ours: part.ours, Other: empty,
			OtherName: "criu restore, process without memory", Goal: 2,
		})
	}
}

// saved runs the server as an app and takes a snapshot of it, without connections.
func (w *world) saved(ctx context.Context, mib int) error {
	if err := w.subject(ctx, "subject", endpoint, mib); err != nil {
		return err
	}
	if err := w.answers(ctx, endpoint); err != nil {
		return err
	}
	_, err := w.api.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: "saved"}, nil)
	return err
}

// stockSaved has stock CRIU save the server, and so end it.
func (w *world) stockSaved(ctx context.Context, mib int) (*stock, error) {
	s, err := w.stockSubject(ctx, mib)
	if err != nil {
		return nil, err
	}
	defer s.end()
	if err := w.answers(ctx, loopback); err != nil {
		return nil, err
	}
	if _, err := s.dump(ctx, "skip", "--tcp-close"); err != nil {
		return nil, err
	}
	return s, nil
}

// answers waits until the server answers.
func (w *world) answers(ctx context.Context, at string) error {
	conns, err := w.crowd(ctx, at, 1)
	closeAll(conns)
	return err
}

// restoreSnapshot makes another app of the snapshot, uses and removes it.
func (w *world) restoreSnapshot(ctx context.Context) (spent, error) {
	const other = "10.77.0.9"
	s, err := w.command(ctx, "restore", "saved", "--as", "other", "--endpoint", other)
	if err != nil {
		return s, err
	}
	if err := w.answers(ctx, other); err != nil {
		return s, err
	}
	return s, w.remove(ctx, "other")
}

// wakeByCommand hibernates the app and wakes it.
func (w *world) wakeByCommand(ctx context.Context) (spent, error) {
	if _, err := w.api.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil); err != nil {
		return spent{}, err
	}
	return w.command(ctx, "wake", "subject")
}

// command runs snapctl, which makes processes, and returns how long it took.
func (w *world) command(ctx context.Context, args ...string) (spent, error) {
	path, err := w.Install(ctx, "snapctl")
	if err != nil {
		return spent{}, err
	}
	took, r, err := w.timed(ctx, path, append(args, "--output", "json")...)
	if err != nil {
		return spent{}, err
	}
	if r.Code != 0 {
		return spent{}, fmt.Errorf("snapctl %s: exit status %d: %s", args[0], r.Code, r.Stderr)
	}
	var doc struct {
		Results []struct {
			StepsUS map[string]int64 `json:"steps_us"`
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		return spent{}, fmt.Errorf("snapctl %s: %w", args[0], err)
	}
	s := spent{command: took}
	for _, result := range doc.Results {
		for _, name := range []string{"start criu", "prepare images", "restore processes"} {
			us, ok := result.StepsUS[name]
			if !ok {
				return s, fmt.Errorf("snapctl %s tells nothing of its step %q", args[0], name)
			}
			s.step += time.Duration(us) * time.Microsecond
		}
	}
	return s, nil
}
