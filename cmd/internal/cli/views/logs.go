package views

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewLogs makes the command `snapctl logs`.
func NewLogs(s *session.Session) *cobra.Command {
	req := &api.LogsRequest{}
	cmd := &cobra.Command{
		Use:   "logs [-f] [-n LINES] APP",
		Short: "Print what an app has printed",
		Long: `Print what an app's programs have printed, as it is: both their standard output
and standard error.`,
		Example: `  snapctl logs --tail 20 cache
  snapctl logs -f cache`,
		Args:              session.Exactly("APP"),
		ValidArgsFunction: s.Ask(1, session.AppNames()),
		Annotations:       session.Raw(),
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			req.Name = args[0]
			err := c.Logs(ctx, req, s.World.Out)
			interrupted := errors.Is(err, context.Canceled) && ctx.Err() != nil
			if err == nil || interrupted && req.GetFollow() { // the way to end it
				return nil
			}
			return err
		}),
	}
	cmd.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on with what it prints from now on")
	cmd.Flags().VarP(value.One(&req.TailLines, "LINES", value.ParseCount), "tail", "n", "only the last lines")
	session.CompleteFlag(cmd, "tail", cobra.NoFileCompletions)
	return cmd
}
