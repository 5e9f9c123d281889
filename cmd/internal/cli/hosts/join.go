package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newJoin(s *session.Session) *cobra.Command {
	var at place
	cmd := &cobra.Command{
		Use:   "join ADDRESS TOKEN",
		Short: "Join an installation",
		Long: `Join the installation of the host at ADDRESS, with a token that host invite has printed
there. The apps that this host has keep their names and addresses; if another host has the
same ones nothing is changed, and all of them are listed.`,
		Example: `  snapctl host join 192.0.2.7 TOKEN
  snapctl host join [2001:db8::7]:7077 TOKEN --name host-b --address 2001:db8::8`,
		Args:              session.Exactly("ADDRESS", "TOKEN"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			to, err := value.ParseHostPort(args[0])
			if err != nil {
				return session.Usagef("%v", err)
			}
			h, err := c.JoinHost(ctx, &api.JoinHostRequest{Name: at.name, Addresses: at.messages(), Port: uint32(at.port), At: to, Token: args[1]})
			if err != nil {
				return err
			}
			return s.Print(output.NewHostDetail(h))
		}),
	}
	at.flags(cmd)
	return cmd
}
