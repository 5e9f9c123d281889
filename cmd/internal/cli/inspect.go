package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newInspect(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect SNAPSHOT",
		Short: "Show what is in a snapshot",
		Long: `Show what is in a snapshot: processes, memory, files and sockets. The name of a
hibernated app shows what was saved of it.`,
		Example: `  snapctl inspect cache-1
  snapctl inspect cache-1 --output json | jq .image.totals`,
		Args:              exactly("SNAPSHOT"),
		ValidArgsFunction: s.ask(1, imageNames),
		Annotations:       map[string]string{listKey: "snapshots"},
		RunE: s.call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Inspect(ctx, args[0])
			if err != nil {
				return err
			}
			doc, err := output.NewInspection(r)
			if err != nil {
				return err
			}
			return s.print(doc)
		}),
	}
}
