package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewInspect makes the command `snapctl inspect`.
func NewInspect(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect SNAPSHOT",
		Short: "Show what is in a snapshot",
		Long: `Show what is in a snapshot: processes, memory, files and sockets. The name of a
hibernated app shows what was saved of it.`,
		Example: `  snapctl inspect cache-1
  snapctl inspect cache-1 --output json | jq .image.totals`,
		Args:              session.Exactly("SNAPSHOT"),
		ValidArgsFunction: s.Ask(1, imageNames),
		Annotations:       map[string]string{session.ListKey: "snapshots"},
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Inspect(ctx, args[0])
			if err != nil {
				return err
			}
			doc, err := output.NewInspection(r)
			if err != nil {
				return err
			}
			return s.Print(doc)
		}),
	}
}

// imageNames lists what can be inspected.
func imageNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	snapshots, err := session.SnapshotNames(ctx, c)
	if err != nil {
		return nil, err
	}
	held, err := session.AppNames(api.Status_STATUS_HELD)(ctx, c)
	return append(snapshots, held...), err
}
