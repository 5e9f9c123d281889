package hosts

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newInvite(s *session.Session) *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Let another host join",
		Long: `Let another host join: print a token with which one host may join, once. Whoever has the
token and reaches this host's control channel can join: hand it over as you would a
password.`,
		Example: `  snapctl host invite
  snapctl host invite --ttl 10m --output json | jq -r .token`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			if ttl <= 0 {
				return session.Usagef("--ttl %s: a token that is never good", ttl)
			}
			i, err := c.InviteHost(ctx, &api.InviteHostRequest{Ttl: durationpb.New(ttl)})
			if err != nil {
				return err
			}
			return s.Print(output.NewHostInvitation(i))
		}),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "for how long the token is good, a `DURATION`")
	session.CompleteFlag(cmd, "ttl", cobra.NoFileCompletions)
	return cmd
}
