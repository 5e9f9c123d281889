package hosts

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newTakeover(s *session.Session) *cobra.Command {
	var from string
	var yes bool
	cmd := &cobra.Command{
		Use:   "takeover APP --from HOST",
		Short: "Get the endpoint of an app whose host is dead",
		Long: `Make the endpoint of an app this host's, whose host is dead: its name and its address. Then
restore the app here from a snapshot, or run it anew under its name: it has the address that
it had, and other hosts send there at once.

It is a promise that no copy of the app runs on that host any more: the host was powered
off, has crashed, or was restarted. A host that is only cut off, paused or suspended has to
be powered off first. When the host comes back its copy of the app stays stopped, and
nothing of it is lost.

With this host itself as HOST it gives an app back its endpoint that was saved here before a
restart, if the directory was put back from a backup while the host was away. That is a
promise that no other host has taken the app over.`,
		Example: `  snapctl host takeover cache --from host-b
  snapctl restore cache-1`,
		Args:              session.Exactly("APP"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			if from == "" {
				return session.Usagef("snapctl host takeover needs --from HOST: the host that is dead")
			}
			if !yes {
				if err := promise(s, args[0], from); err != nil {
					return err
				}
			}
			t, err := c.Takeover(ctx, &api.TakeoverRequest{App: args[0], From: from})
			if err != nil {
				return err
			}
			return s.Print(NewTakeover(t))
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "the `HOST` that is dead")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "promise that no copy of the app runs on that host, without being asked")
	session.CompleteFlag(cmd, "from", s.Ask(0, session.HostNames))
	return cmd
}

// promise asks at the terminal.
func promise(s *session.Session, app, from string) error {
	return s.Confirm(
		fmt.Sprintf("A copy of %s that runs on host %s would answer at the same address. Has the host been\npowered off or restarted, or has it crashed?", app, from),
		fmt.Sprintf("--yes promises that no copy of %s runs on host %s", app, from),
	)
}
