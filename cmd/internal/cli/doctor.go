package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
)

func newDoctor(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what snapctl needs of this host",
		Long: `Check what snapctl needs of this host: kernel, CRIU, cgroups, rights, snapctld
itself. It changes nothing. The exit code is 5 if a check failed; a warning is
something that works, but not as well as it could.`,
		Example: `  snapctl doctor
  snapctl doctor --output json | jq '.checks[] | select(.status != "ok")'`,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := s.limit(cmd.Context(), 0)
			defer cancel()
			checks, err := s.diagnose(ctx, cmd)
			if err != nil {
				return err
			}
			d := output.NewDiagnosis(checks)
			if err := s.print(d); err != nil || d.OK {
				return err
			}
			return &exitError{Unsupported, "a check failed"}
		},
	}
}

// diagnose has a check of its own, whether there is a daemon, and the daemon's.
func (s *session) diagnose(ctx context.Context, cmd *cobra.Command) ([]output.Check, error) {
	missing := func(err error) []output.Check {
		return []output.Check{{
			Name: "snapctld", Status: output.CheckFailed, Found: err.Error(), Remedy: strings.Join(s.hints(cmd, err), "; "),
		}}
	}
	c, err := s.connect(ctx)
	if err != nil {
		return missing(err), nil
	}
	defer func() { _ = c.Close() }() // nothing was changed
	v, err := c.Version(ctx)
	if err != nil {
		return missing(err), nil
	}
	own := output.Check{Name: "snapctld", Status: "ok", Found: fmt.Sprintf("version %s, pid %d, at %s", v.GetVersion(), v.GetPid(), s.address())}
	checks, err := c.Doctor(ctx)
	if err != nil {
		return nil, err
	}
	return append([]output.Check{own}, output.NewChecks(checks)...), nil
}
