package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newShow(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "show APP",
		Short: "Show all about an app",
		Example: `  snapctl show cache
  snapctl show cache --output json | jq .app.memory_bytes`,
		Args:              exactly("APP"),
		ValidArgsFunction: s.ask(1, appNames()),
		RunE: s.call(func(ctx context.Context, c *client.Client, args []string) error {
			app, err := c.Show(ctx, args[0])
			if err != nil {
				return err
			}
			return s.print(output.NewAppDetail(app))
		}),
	}
}
