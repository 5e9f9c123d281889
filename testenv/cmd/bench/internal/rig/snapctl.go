package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Spent is how long a restore or a wake took.
type Spent struct {
	// step is from CRIU's start to running processes: its run, what has to be
	// edited in the images, and what else is done while it starts.
	Step time.Duration
	// command is that of snapctl, from its execution to its exit: step, checks of
	// the images, the sandbox, records, the way to the daemon and back.
	Command time.Duration
}

// Answers waits until the server answers.
func (w *World) Answers(ctx context.Context, at string) error {
	conns, err := w.Crowd(ctx, at, 1)
	CloseAll(conns)
	return err
}

// TimedCLI runs snapctl, which makes processes, and returns how long it took.
func (w *World) TimedCLI(ctx context.Context, args ...string) (Spent, error) {
	path, err := w.Install(ctx, "snapctl")
	if err != nil {
		return Spent{}, err
	}
	took, r, err := w.Timed(ctx, path, append(args, "--output", "json")...)
	if err != nil {
		return Spent{}, err
	}
	if r.Code != 0 {
		return Spent{}, fmt.Errorf("snapctl %s: exit status %d: %s", args[0], r.Code, r.Stderr)
	}
	var doc struct {
		Results []struct {
			StepsUS map[string]int64 `json:"steps_us"`
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		return Spent{}, fmt.Errorf("snapctl %s: %w", args[0], err)
	}
	s := Spent{Command: took}
	for _, result := range doc.Results {
		for _, name := range []string{"start criu", "prepare images", "restore processes"} {
			us, ok := result.StepsUS[name]
			if !ok {
				return s, fmt.Errorf("snapctl %s tells nothing of its step %q", args[0], name)
			}
			s.Step += time.Duration(us) * time.Microsecond
		}
	}
	return s, nil
}
