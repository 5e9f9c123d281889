package views

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/doctor"
	"github.com/snapctl/snapctl/runtime/sandbox"
)

// CRIUVariable is the environment variable that names snapctld's CRIU program.
const CRIUVariable = "SNAPCTL_CRIU"

// NewDoctor makes the command `snapctl doctor`.
func NewDoctor(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what snapctl needs of this host",
		Long: `Check what snapctl needs of this host: kernel, CRIU, cgroups, rights, snapctld
itself. It changes nothing. The exit code is 5 if a check failed; a warning is
something that works, but not as well as it could, or that could not be seen.

snapctld makes the checks. Where none answers snapctl makes them itself, for a
snapctld that were started in its place: as root, for other users see less.`,
		Example: `  snapctl doctor
  snapctl doctor --output json | jq '.checks[] | select(.status != "ok")'`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := s.Limit(cmd.Context(), 0)
			defer cancel()
			checks, err := diagnose(ctx, s, cmd)
			if err != nil {
				return err
			}
			d := output.NewDiagnosis(checks)
			if err := s.Print(d); err != nil || d.OK {
				return err
			}
			return &session.ExitError{Code: session.Unsupported, Text: "a check failed"}
		},
	}
}

// diagnose has a check of its own, whether there is a daemon, and the daemon's,
// or those of this process.
func diagnose(ctx context.Context, s *session.Session, cmd *cobra.Command) ([]output.Check, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return diagnoseAlone(ctx, s, cmd, err), nil
	}
	defer func() { _ = c.Close() }() // nothing was changed
	v, err := c.Version(ctx)
	if err != nil {
		return diagnoseAlone(ctx, s, cmd, err), nil
	}
	own := output.Check{Name: "snapctld", Status: string(doctor.OK), Found: fmt.Sprintf("version %s, pid %d, at %s", v.GetVersion(), v.GetPid(), s.Address())}
	checks, err := c.Doctor(ctx)
	if err != nil {
		return nil, err
	}
	return append([]output.Check{own}, output.NewChecks(checks)...), nil
}

// diagnoseAlone makes the checks without a daemon.
func diagnoseAlone(ctx context.Context, s *session.Session, cmd *cobra.Command, why error) []output.Check {
	found := why.Error()
	switch {
	case errors.Is(why, client.ErrNotRunning):
		found = "not running: nobody answers at " + s.Address()
	case errors.Is(why, fs.ErrPermission):
		found = "can't be asked: permission denied at " + s.Address()
	}
	opt := doctor.Options{StateDir: sandbox.DefaultStateDir}
	if path, ok := s.World.Env(CRIUVariable); ok && path != "" {
		opt.CRIU = []string{path}
	}
	checks := []output.Check{{Name: "snapctld", Status: output.CheckFailed, Found: found, Remedy: strings.Join(s.Hints(cmd, why), "; ")}}
	for _, c := range s.World.Doctor(ctx, opt) {
		checks = append(checks, output.Check{Name: c.Name, Status: string(c.Status), Found: c.Found, Remedy: c.Remedy})
	}
	return checks
}
