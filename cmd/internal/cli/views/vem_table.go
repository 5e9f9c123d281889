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
UNREAD and UNSENT are bytes that wait in it, DROPPED are packets that it had no
room for since it was made.

PEER is the app that has the remote address, and its host. A connection to another
host goes over a CHANNEL, which is at an INTERFACE of this host since some time; it is
down while there is none, and the next packet brings one up. SENT and RECEIVED is what
a TCP connection has carried.`,
		Example: `  snapctl vem table
  snapctl vem table cache --watch
  snapctl vem table --network default --output json`,
		Args:              session.AtMost("APP"),
		ValidArgsFunction: s.Ask(1, session.AppNames()),
	}
	cmd.RunE = s.Watched(cmd, func(ctx context.Context, c *client.Client, args []string) (output.Document, error) {
		if len(args) > 0 {
			req.App = args[0]
		}
		rows, err := c.VemTable(ctx, req)
		return output.NewVemTable(rows), err
	})
	cmd.Flags().StringVar(&req.Network, "network", "", "only apps of the virtual network with this `NAME`")
	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	return cmd
}
