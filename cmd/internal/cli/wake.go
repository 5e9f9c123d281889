package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newWake(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "wake APP...",
		Short: "Wake hibernated apps",
		Long: `Wake hibernated apps without waiting for traffic. If it fails the app stays
hibernated, and its sockets held.

If connections are lost, for snapctld and its holder both ended or the host was
started anew, they are listed, and the exit code is 6: the app finds them closed.`,
		Example:           "  snapctl wake cache",
		Args:              someOf("APP"),
		ValidArgsFunction: s.ask(0, appNames(api.Status_STATUS_HELD)),
		RunE: s.operate(output.WakeUp, func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error) {
			return c.Wake(ctx, &api.WakeRequest{Name: name, Timeout: s.patience()}, tell)
		}),
	}
}
