package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewIDs makes the command `snapctl ids`.
func NewIDs(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "ids APP",
		Short: "Show an app's ids, as it and as the host knows them",
		Long: `Show an app's ids: of processes, IPC objects, addresses, ports, host name, paths and
namespaces. VIRTUAL is how the app knows a thing, ACTUAL how the host does.`,
		Example: `  snapctl ids cache
  snapctl ids cache --output json | jq '.ids[] | select(.kind == "pid")'`,
		Args:              session.Exactly("APP"),
		ValidArgsFunction: s.Ask(1, session.AppNames()),
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			ids, err := c.IDs(ctx, args[0])
			if err != nil {
				return err
			}
			return s.Print(output.NewIDMap(args[0], ids))
		}),
	}
}
