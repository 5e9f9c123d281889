package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newVemResolve(s *session.Session) *cobra.Command {
	req := &api.ResolveRequest{}
	cmd := &cobra.Command{
		Use:   "resolve [ADDRESS|APP]",
		Short: "Tell on which host an address or an app is",
		Long: `Tell on which host an address or an app is, or all of them: its owner, with the epoch
that grows by one whenever the owner changes, and what it is doing. KNOWN FROM says
whether this host has it, knows it from its cache of the directory, or had to ask the
directory, and AS OF how long ago it was so. The exit code is 4 if nobody has it.`,
		Example: `  snapctl vem resolve 10.77.0.7
  snapctl vem resolve web --output json | jq -r '.endpoints[].host'
  snapctl vem resolve --network default`,
		Args:              session.AtMost("ADDRESS|APP"),
		ValidArgsFunction: s.Ask(1, session.Endpoints),
		Annotations:       map[string]string{session.ListKey: "vem resolve"},
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) > 0 {
				req.Endpoint = args[0]
			}
			r, err := c.Resolve(ctx, req)
			if err != nil {
				return err
			}
			return s.Print(output.NewResolved(r))
		}),
	}
	cmd.Flags().StringVar(&req.Network, "network", "", "only in the virtual network with this `NAME`")
	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	return cmd
}
