package hosts

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// kinds are the kinds of channels that there are, and the choice of the best one.
var kinds = []string{"auto", "direct", "tunnel", "vxlan", "wireguard"}

func newSet(s *session.Session) *cobra.Command {
	var channel, network string
	var addresses []value.UnderlayAddress
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Change this host",
		Long: `Change this host, while its apps run and talk.

--channel says what carries packets between the apps of this host and those of others:

  auto       the best of the next three that both hosts can make
  direct     as they are, between hosts on one link, by BPF
  tunnel     in IP packets (protocols 4 and 41), by BPF
  vxlan      in UDP packets to port 7077, by the kernel's routes; slower, needs no BPF
  wireguard  encrypted, in UDP packets to a port from 7100 to 7199: for a network between hosts
             that is not trusted; very slow where the kernel has no WireGuard

A host that has no BPF has vxlan without being told. Of two hosts it is enough that one is
told: the other one goes along. If both are told, and not the same, the one further down this
list is taken. A kind that the two can't have is not: then they have the best one that they
can, but none instead of wireguard. Where that differs from what this host is told, "snapctl
vem channels" says why. With --network all this is for one virtual network.

--address says where other hosts reach this one, in place of all addresses before: repeat it
for several. auto takes those of the network devices, as host init does. Channels move from
addresses that are given up, and connections go on; that takes some ten seconds while apps
talk. Nothing is changed if no host that is alive answers from the new addresses, or channels
can't move there. To renumber a host, have its device have both addresses, give the new one
here, and then take the old one from the device.`,
		Example: `  snapctl host set --channel vxlan
  snapctl host set --channel wireguard
  snapctl host set --channel tunnel --network blue
  snapctl host set --channel auto
  snapctl host set --address 198.51.100.7 --address 192.0.2.7%eth1,priority=10
  snapctl host set --address auto`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			req := &api.SetHostRequest{Channel: channel, Network: network}
			find := slices.Contains(addresses, value.UnderlayAddress{})
			switch {
			case channel == "" && len(addresses) == 0:
				return session.Usagef("nothing to change: give --channel or --address")
			case channel != "" && len(addresses) > 0:
				return session.Usagef("--channel and --address are two changes: make one after the other")
			case network != "" && channel == "":
				return session.Usagef("--network goes with --channel alone")
			case find && len(addresses) > 1:
				return session.Usagef("--address auto finds all addresses: give no other one")
			case find:
				req.FindAddresses = true
			default:
				req.Addresses = addressMessages(addresses)
			}
			h, err := c.SetHost(ctx, req)
			if err != nil {
				return err
			}
			for _, note := range h.GetNotes() {
				s.Say("note", note)
			}
			return s.Print(output.NewHostDetail(h))
		}),
	}
	cmd.Flags().Var(value.One(&channel, "KIND", value.Word(kinds...)), "channel", "kind of all channels to other hosts: auto, direct, tunnel, vxlan or wireguard")
	cmd.Flags().StringVar(&network, "network", "", "with --channel: only those of the virtual network with this `NAME`; auto: as those of all others")
	cmd.Flags().Var(value.List(&addresses, "ADDR", addressOrAuto), "address", "where other hosts reach this one, in place of all before: ADDR[%DEVICE][,priority=N], the lower N the sooner; may be repeated; auto: those of its network devices")
	session.CompleteFlag(cmd, "address", cobra.FixedCompletions([]string{"auto"}, cobra.ShellCompDirectiveNoFileComp))
	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	session.CompleteFlag(cmd, "channel", cobra.FixedCompletions(kinds, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// addressOrAuto reads an address of the underlay; auto is a zero one.
func addressOrAuto(text string) (value.UnderlayAddress, error) {
	if text == "auto" {
		return value.UnderlayAddress{}, nil
	}
	return value.ParseUnderlayAddress(text)
}
