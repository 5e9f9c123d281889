package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// NewVersion makes the command `snapctl version`.
func NewVersion(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell the versions of snapctl, snapctld and CRIU",
		Long: `Tell the versions of snapctl and, if it answers, of snapctld and what it works
with.`,
		Example: `  snapctl version
  snapctl version --output json | jq -r .daemon.criu_version`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := s.Limit(cmd.Context(), 0)
			defer cancel()
			daemon, err := daemonVersion(ctx, s)
			if perr := s.Print(output.NewVersion(s.World.Build, daemon)); perr != nil {
				return perr
			}
			if err != nil { // not a failure: the question was this program's version
				s.Say("hint", "snapctld was not asked: "+err.Error())
			}
			return nil
		},
	}
}

func daemonVersion(ctx context.Context, s *session.Session) (*api.VersionResponse, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // nothing was changed
	return c.Version(ctx)
}
