package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newVemChannels(s *session.Session) *cobra.Command {
	req := &api.ChannelsRequest{}
	cmd := &cobra.Command{
		Use:   "channels",
		Short: "List or take down the channels to other hosts",
		Long: `List the channels to other hosts: what carries the packets of a network there, from
which address of this host to which of the other one, since when, what it has carried,
and for how long nothing went either way. A channel comes up with the first packet for
an app of the other host, and goes down after some minutes without any. Those that were
up since snapctld was started are listed, too.`,
		Example: `  snapctl vem channels
  snapctl vem channels --watch
  snapctl vem channels --host host-b --output json | jq '.channels[].received.bytes'`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = s.Watched(cmd, func(ctx context.Context, c *client.Client, _ []string) (output.Document, error) {
		all, err := c.Channels(ctx, req)
		return output.NewChannelList(all), err
	})
	f := cmd.Flags()
	f.StringVar(&req.Network, "network", "", "only those of the virtual network with this `NAME`")
	f.StringVar(&req.Host, "host", "", "only those to the host with this `NAME`")
	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	session.CompleteFlag(cmd, "host", s.Ask(0, session.HostNames))
	cmd.AddCommand(newVemChannelsDown(s))
	return cmd
}

func newVemChannelsDown(s *session.Session) *cobra.Command {
	req := &api.ChannelsRequest{}
	all := false
	cmd := &cobra.Command{
		Use:   "down (HOST | --all)",
		Short: "Take the channels to a host down",
		Long: `Take the channels to a host, or to all of them, down, whatever goes over them. Apps and
their connections are not told: the next packet brings a channel up again, by the best
way that there is then. Packets that are underway may be lost, as on any network.`,
		Example: `  snapctl vem channels down host-b
  snapctl vem channels down --all --network blue`,
		Args:              session.AtMost("HOST"),
		ValidArgsFunction: s.Ask(1, session.HostNames),
		Annotations:       map[string]string{session.ListKey: "host ls"},
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			if (len(args) == 0) != all {
				return session.Usagef("name a host, or say --all")
			}
			if len(args) > 0 {
				req.Host = args[0]
			}
			taken, err := c.TakeChannelsDown(ctx, req)
			if err != nil {
				return err
			}
			return s.Print(output.NewChannelsDown(taken))
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "those to all hosts")
	cmd.Flags().StringVar(&req.Network, "network", "", "only those of the virtual network with this `NAME`")
	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	return cmd
}
