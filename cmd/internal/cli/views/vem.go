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
apps: their addresses, and their sockets while they are hibernated.`,
		Example: "  snapctl vem table",
	}
	cmd.AddCommand(newVemTable(s))
	return cmd
}
