package checkpoint

import (
	"context"
	"errors"
	"slices"

	"github.com/snapctl/snapctl/snapshot/paths"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/hold/vet"
)

// Preflight refuses an app that can't be saved before anything is frozen. look is
// [vet.Preflight] or [vet.PreflightCopy]. It returns the paths that were looked at.
func (s *Subject) Preflight(ctx context.Context, look func(context.Context, []int) []vet.Finding) (*paths.Seen, error) {
	pids, err := s.cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	pids, attended := s.unattended(pids)
	report, err := preflight.Look(ctx, pids, s.preflightOptions())
	if err != nil {
		return nil, err
	}
	seen, err := paths.Look(ctx, pids)
	if err != nil {
		return nil, err
	}
	if err := seen.LookAtBinds(s.PID, bindsOf(s.Box.Spec)); err != nil {
		return nil, err
	}
	findings := look(ctx, pids)
	if err := errors.Join(attended, report.Err(), vet.Errors(findings), seen.Err()); err != nil {
		return nil, err
	}
	for _, f := range findings {
		if f.Severity == vet.Listed {
			s.Note(f.Note.Text, f.Note.Remedy)
		}
	}
	for _, n := range slices.Concat(report.Notes, seen.Notes) {
		s.Note(n.Text, n.Remedy)
	}
	return seen, nil
}

func (s *Subject) preflightOptions() preflight.Options {
	return preflight.Options{Root: s.PID, Cgroup: s.Box.Cgroup().Name(), Accept: s.Accept}
}
