package apps

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

// NewStop makes the command `snapctl stop`.
func NewStop(s *session.Session) *cobra.Command {
	var signal string
	var after time.Duration
	cmd := &cobra.Command{
		Use:   "stop APP...",
		Short: "End apps",
		Long: `End apps: ask their program to end with a signal, and kill it if it does not. An
app's record, log and files stay until it is removed. The connections of a
hibernated app are reset.`,
		Example: `  snapctl stop cache
  snapctl stop --signal INT --kill-after 1m db web`,
		Args:              session.SomeOf("APP"),
		ValidArgsFunction: s.Ask(0, session.AppNames(api.Status_STATUS_RUNNING, api.Status_STATUS_HELD)),
		PreRunE: func(*cobra.Command, []string) error {
			if after < 0 {
				return session.Usagef("--kill-after %s is negative", after)
			}
			return nil
		},
		RunE: s.Operate(output.Stop, func(ctx context.Context, c *client.Client, name string, _ client.Progress) (*api.Result, error) {
			req := &api.StopRequest{Name: name, Signal: signal}
			if after > 0 {
				req.Timeout = durationpb.New(after)
			}
			app, err := c.Stop(ctx, req)
			if err != nil {
				return nil, err
			}
			return &api.Result{App: app}, nil
		}),
	}
	cmd.Flags().StringVar(&signal, "signal", "", "`NAME` of the signal that asks, such as INT (default TERM)")
	cmd.Flags().DurationVar(&after, "kill-after", 0, "kill what still runs after this `DURATION` (default 10s)")
	session.CompleteFlag(cmd, "signal", cobra.FixedCompletions([]string{"TERM", "INT", "HUP", "QUIT", "KILL"}, cobra.ShellCompDirectiveNoFileComp))
	session.CompleteFlag(cmd, "kill-after", cobra.NoFileCompletions)
	return cmd
}
