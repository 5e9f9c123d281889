package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

func newVersion(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell the versions of snapctl, snapctld and CRIU",
		Long: `Tell the versions of snapctl and, if it answers, of snapctld and what it works
with.`,
		Example: `  snapctl version
  snapctl version --output json | jq -r .daemon.criu_version`,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := s.limit(cmd.Context(), 0)
			defer cancel()
			daemon, err := s.daemonVersion(ctx)
			if perr := s.print(output.NewVersion(s.world.Build, daemon)); perr != nil {
				return perr
			}
			if err != nil { // not a failure: the question was this program's version
				s.say("hint", "snapctld was not asked: "+err.Error())
			}
			return nil
		},
	}
}

func (s *session) daemonVersion(ctx context.Context) (*api.VersionResponse, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // nothing was changed
	return c.Version(ctx)
}
