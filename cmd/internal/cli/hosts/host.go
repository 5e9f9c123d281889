// Package hosts has the commands by which hosts come together: `snapctl host ...`.
package hosts

import (
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/moves"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
)

// NewHost makes the command `snapctl host`.
func NewHost(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Have several hosts share their virtual networks",
		Long: `Make an installation of several hosts: an app has one address in all of it, wherever it
is. The first host makes it by host init; each other one is invited by a host that is in,
and joins. One host alone needs none of this.`,
		Example: `  snapctl host init
  snapctl host invite
  snapctl host join 192.0.2.7 TOKEN   # on the other host`,
	}
	cmd.AddCommand(newInit(s), newInvite(s), newJoin(s), newLs(s), newShow(s), newSet(s), newRm(s), newLeave(s), newCordon(s), newUncordon(s), moves.NewDrain(s), newTakeover(s), newDirectory(s), newGateway(s))
	return cmd
}

// place is what a host says of itself when it comes to an installation.
type place struct {
	name      string
	addresses []value.UnderlayAddress
	port      uint16
}

func (p *place) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.name, "name", "", "`NAME` of this host in the installation (default: its host name)")
	f.Var(value.List(&p.addresses, "ADDR", value.ParseUnderlayAddress), "address", "where other hosts reach this one: ADDR[%DEVICE][,priority=N], the lower N the sooner; may be repeated (default: those of its network devices)")
	f.Uint16Var(&p.port, "port", 0, "`PORT` of the control channel (default 7077)")
	for _, name := range []string{"name", "address", "port"} {
		session.CompleteFlag(cmd, name, cobra.NoFileCompletions)
	}
}

func (p *place) messages() []*api.HostAddress { return addressMessages(p.addresses) }

func addressMessages(list []value.UnderlayAddress) []*api.HostAddress {
	var all []*api.HostAddress
	for _, a := range list {
		all = append(all, &api.HostAddress{Address: a.Address.String(), Device: a.Device, Priority: a.Priority})
	}
	return all
}
