package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/client"
)

func newLeave(s *session.Session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Take this host out of its installation",
		Long: `Take this host out of its installation: the other hosts refuse it from now on, and it
forgets its certificate, the certificate authority, and its member of the directory. Apps go
on, alone. While the host has apps that others know of it leaves by --force only. The last
host that leaves ends the installation.`,
		Example: `  snapctl host leave
  snapctl host leave --force   # also if the directory can't be reached`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			h, err := c.ShowHost(ctx, "")
			name := h.GetName()
			if err != nil && !force {
				return err
			}
			if err := c.LeaveHost(ctx, force); err != nil {
				return err
			}
			return s.Print(newLeftDocument(name))
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "although it has apps that other hosts know of, or they can't be told")
	return cmd
}
