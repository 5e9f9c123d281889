package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newVemTable(s *session.Session) *cobra.Command {
	req := &api.VemTableRequest{}
	cmd := &cobra.Command{
		Use:   "table [APP]",
		Short: "Show the translation table",
		Long: `Show the translation table: every socket of an app, or of all of them, with its
virtual addresses, where it really is, and whether it is up, held or down.
RECEIVED and UNSENT are bytes that wait in it, DROPPED are packets that it had no
room for since it was made.`,
		Example: `  snapctl vem table
  snapctl vem table cache
  snapctl vem table --network default --output json`,
		Args:              session.AtMost("APP"),
		ValidArgsFunction: s.Ask(1, session.AppNames()),
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) > 0 {
				req.App = args[0]
			}
			rows, err := c.VemTable(ctx, req)
			if err != nil {
				return err
			}
			return s.Print(output.NewVemTable(rows))
		}),
	}
	cmd.Flags().StringVar(&req.Network, "network", "", "only apps of the virtual network with this `NAME`")
	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	return cmd
}
