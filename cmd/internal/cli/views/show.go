package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewShow makes the command `snapctl show`.
func NewShow(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "show APP",
		Short: "Show all about an app",
		Example: `  snapctl show cache
  snapctl show cache --output json | jq .app.memory_bytes`,
		Args:              session.Exactly("APP"),
		ValidArgsFunction: s.Ask(1, session.AppNames()),
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			app, err := c.Show(ctx, args[0])
			if err != nil {
				return err
			}
			return s.Print(output.NewAppDetail(app))
		}),
	}
}
