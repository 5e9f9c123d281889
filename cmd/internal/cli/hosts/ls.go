package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newLs(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the hosts of the installation",
		Long: `List the hosts of the installation. A host that is silent was not seen for a while; its
apps may run all the same. CONTROL is this host's connection to it, over which both
agree on channels, and CLOCK how far its clock is ahead of this host's. host show tells
why a connection is down, and what to do.`,
		Example: `  snapctl host ls
  snapctl host ls --watch=5s`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = s.Watched(cmd, func(ctx context.Context, c *client.Client, _ []string) (output.Document, error) {
		r, err := c.ListHostsWithTrouble(ctx)
		return output.NewHostList(r, evenMembers(r.GetHosts())...), err
	})
	return cmd
}
