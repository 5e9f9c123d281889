package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newGateway(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Let machines without snapctl reach the apps of all hosts",
		Long: `Make this host a gateway: machines that know nothing of snapctl reach the endpoints of all
hosts by routing the prefix of a virtual network to this host. Published ports need no
gateway: they lead to their apps at every host of the installation.`,
		Example: `  snapctl host gateway on
  ip route add 10.77.0.0/16 via 192.0.2.7   # on the other machine
  snapctl host gateway on --advertise 203.0.113.0/24
  snapctl host gateway show`,
	}
	cmd.AddCommand(newGatewayOn(s), newGatewayOff(s), newGatewayShow(s))
	return cmd
}

func newGatewayOn(s *session.Session) *cobra.Command {
	var advertise []string
	cmd := &cobra.Command{
		Use:   "on",
		Short: "Forward what other machines send to endpoints",
		Long: `Forward what other machines send to endpoints, of whatever host. Endpoints see these machines
as this host. Whoever can send to this host then reaches every port of every endpoint: use
this host's firewall where that is too much. It stays so until host gateway off, also over
restarts. The host forwards IPv4 and IPv6 (net.ipv4.ip_forward and its like) from then on, as
a router: where accept_ra is 1 it takes no router advertisements.

Machines whose prefix is given by --advertise keep their addresses: endpoints of all hosts see
them as they are, and reach them, by this host and its own routes. The prefix is one of
machines behind this host, to which it has a route: no virtual network's, and none of the
network between hosts. Other hosts may advertise the same one. Endpoints' packets take one
that is alive, the first by name, whichever the machine's packets have come by: when a
gateway fails all connections go on by the others as soon as the machines' routes lead there,
and other hosts have found out (some seconds). Those by published ports are not among these:
apps see who comes by one as the host whose port it is, and they end with that host.

Channels of all kinds carry packets of such machines; those of kind wireguard need the kernel's
VXLAN, and a network between hosts that carries 1440 bytes: host gateway show says what is missing.
Without --advertise the prefixes of before are advertised no more.`,
		Example: `  snapctl host gateway on
  snapctl host gateway on --advertise 203.0.113.0/24 --advertise 2001:db8:7::/48`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			g, err := c.SetGateway(ctx, &api.SetGatewayRequest{On: true, Advertise: advertise})
			if err != nil {
				return err
			}
			return s.Print(NewGateway(g))
		}),
	}
	cmd.Flags().StringSliceVar(&advertise, "advertise", nil, "`PREFIX` of machines behind this host that keep their addresses; repeatable")
	session.CompleteFlag(cmd, "advertise", cobra.NoFileCompletions)
	return cmd
}

func newGatewayOff(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "off",
		Short: "Forward nothing but published ports any more",
		Long: `Forward nothing but published ports any more. Connections of machines that apps saw as this
host end by silence. Those of machines that keep their addresses go on, if another gateway
advertises their prefix and their own routes lead there.`,
		Example:           "  snapctl host gateway off",
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			g, err := c.SetGateway(ctx, &api.SetGatewayRequest{})
			if err != nil {
				return err
			}
			return s.Print(NewGateway(g))
		}),
	}
}

func newGatewayShow(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show what this host forwards",
		Long: `Show what this host forwards: whether it is a gateway, for which prefixes, and which other
hosts are; its own address in each virtual network, which is what other hosts' apps see it at;
and which published ports of other hosts' apps lead to them here, or why not.`,
		Example:           "  snapctl host gateway show",
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			g, err := c.ShowGateway(ctx)
			if err != nil {
				return err
			}
			return s.Print(NewGateway(g))
		}),
	}
}
