package hosts

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newJoin(s *session.Session) *cobra.Command {
	var at place
	var onConflict conflictFlag
	cmd := &cobra.Command{
		Use:   "join ADDRESS TOKEN",
		Short: "Join an installation",
		Long: `Join the installation of the host at ADDRESS, with a token that host invite has printed
there. The apps that this host has keep their names and addresses. If the installation has
networks, addresses or names that this host has too, nothing of this host is changed: all of
them are listed with what can be done, and the same command may be repeated then. With
--on-conflict keep-private, networks in which there is such a conflict stay this host's own,
and all others are shared.`,
		Example: `  snapctl host join 192.0.2.7 TOKEN
  snapctl host join 192.0.2.7 TOKEN --on-conflict keep-private
  snapctl host join [2001:db8::7]:7077 TOKEN --name host-b --address 2001:db8::8`,
		Args:              session.Exactly("ADDRESS", "TOKEN"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			to, err := value.ParseHostPort(args[0])
			if err != nil {
				return session.Usagef("%v", err)
			}
			r, err := c.JoinHost(ctx, &api.JoinHostRequest{
				Name: at.name, Addresses: at.messages(), Port: uint32(at.port), At: to, Token: args[1], OnConflict: onConflict.message(),
			})
			if err != nil {
				return err
			}
			if r.GetHost() != nil {
				return s.Print(output.NewHostDetail(r.GetHost()))
			}
			if err := s.Print(NewConflicts(r.GetConflicts())); err != nil {
				return err
			}
			return &session.ExitError{Code: session.Failed, Text: "this host has not joined, and nothing of it has changed: repeat the command when no conflict is left"}
		}),
	}
	at.flags(cmd)
	cmd.Flags().Var(&onConflict, "on-conflict", "what becomes of networks, addresses and names that both have: `refuse` or keep-private")
	session.CompleteFlag(cmd, "on-conflict", cobra.FixedCompletions(conflictFlags, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// conflictFlag is one of conflictFlags.
type conflictFlag string

var conflictFlags = []string{"refuse", "keep-private"}

func (f *conflictFlag) String() string {
	if *f == "" {
		return conflictFlags[0]
	}
	return string(*f)
}

func (*conflictFlag) Type() string { return "string" }

func (f *conflictFlag) Set(text string) error {
	if !slices.Contains(conflictFlags, text) {
		return fmt.Errorf("%q is neither refuse nor keep-private", text)
	}
	*f = conflictFlag(text)
	return nil
}

func (f *conflictFlag) message() api.OnConflict {
	if f.String() == "keep-private" {
		return api.OnConflict_ON_CONFLICT_KEEP_PRIVATE
	}
	return api.OnConflict_ON_CONFLICT_REFUSE
}
