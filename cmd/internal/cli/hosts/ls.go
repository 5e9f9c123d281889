package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newLs(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the hosts of the installation",
		Long: `List the hosts of the installation. A host that is silent was not seen for a while; its
apps may run all the same.`,
		Example:           "  snapctl host ls",
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.ListHosts(ctx)
			if err != nil {
				return err
			}
			return s.Print(output.NewHostList(all))
		}),
	}
}
