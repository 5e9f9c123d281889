package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newShow(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "show [HOST]",
		Short: "Show all about a host, or this one",
		Long: `Show all about a host, or this one.

While there is a channel to the host, that is while apps talk to one another,
it shows the ways there too, the best first: each pair of addresses of both
hosts with its state, the round trip, the loss, and the largest packet that it
carries from here. A way is probed each second (snapctld --probe-interval). It
is down after three probes without an answer, and channels take the next one.`,
		Example: `  snapctl host show
  snapctl host show host-b --output json`,
		Args:              session.AtMost("HOST"),
		ValidArgsFunction: s.Ask(1, session.HostNames),
		Annotations:       map[string]string{session.ListKey: "host ls"},
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			h, err := c.ShowHost(ctx, name)
			if err != nil {
				return err
			}
			return s.Print(output.NewHostDetail(h))
		}),
	}
}
