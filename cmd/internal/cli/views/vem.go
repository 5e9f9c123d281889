package views

import (
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// NewVem makes the command `snapctl vem`.
func NewVem(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vem",
		Short: "Look into the virtual networks",
		Long: `Look into the VEM, the virtual endpoint manager, which owns the network side of
apps: their addresses, their sockets while they are hibernated, and the ways to the
apps of other hosts.`,
		Example: `  snapctl vem table
  snapctl vem channels
  snapctl vem resolve 10.77.0.7
  snapctl vem trace 10.77.0.7`,
	}
	cmd.AddCommand(newVemTable(s), newVemChannels(s), newVemResolve(s), newVemTrace(s))
	return cmd
}
