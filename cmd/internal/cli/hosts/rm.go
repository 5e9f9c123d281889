package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newRm(s *session.Session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm HOST...",
		Short: "Remove hosts from the installation",
		Long: `Remove hosts from the installation: from now on no other host listens to them, and their
certificates are good for nothing. What runs on them goes on there, alone. A member of the
directory that such a host runs is taken out first, also if the host is gone for good. A host
that has endpoints is removed by --force only: nobody reaches them any more.`,
		Example:           "  snapctl host rm host-b",
		Args:              session.SomeOf("HOST"),
		ValidArgsFunction: s.Ask(0, session.HostNames),
		Annotations:       map[string]string{session.ListKey: "host ls"},
		RunE: s.Operate(output.RemoveHost, func(ctx context.Context, c *client.Client, name string, _ client.Progress) (*api.Result, error) {
			return &api.Result{}, c.RemoveHost(ctx, &api.RemoveHostRequest{Name: name, Force: force})
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "although it has endpoints")
	return cmd
}
