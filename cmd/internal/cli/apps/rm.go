package apps

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewRm makes the command `snapctl rm`.
func NewRm(s *session.Session) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "rm [--force] APP...",
		Short: "Remove apps",
		Long: `Remove apps and all that was their own: files, logs, endpoint. Their snapshots stay.
An app that is not stopped is only removed with --force.`,
		Example: `  snapctl rm cache
  snapctl rm --force cache web`,
		Args:              session.SomeOf("APP"),
		ValidArgsFunction: s.Ask(0, session.AppNames()),
		RunE: s.Operate(output.Remove, func(ctx context.Context, c *client.Client, name string, _ client.Progress) (*api.Result, error) {
			return &api.Result{}, c.Remove(ctx, &api.RemoveRequest{Name: name, Force: force})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end them first, at once")
	return cmd
}
