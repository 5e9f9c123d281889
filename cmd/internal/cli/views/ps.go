// Package views has the commands of snapctl that only show something and change nothing: ps, show,
// logs, inspect, ids, vem table, events, doctor and version.
package views

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewPs makes the command `snapctl ps`.
func NewPs(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List the apps",
		Long: `List the apps, hibernated and stopped ones too. HELD is how many sockets are held
for a hibernated app. WOULD NOT START, if it is there, is a file without which an app
could not be woken now; show says why, and what to do.`,
		Example: `  snapctl ps
  snapctl ps --watch
  snapctl ps --output json | jq -r '.apps[] | select(.status == "held") | .name'`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = s.Watched(cmd, func(ctx context.Context, c *client.Client, _ []string) (output.Document, error) {
		apps, err := c.List(ctx)
		return output.NewAppList(apps), err
	})
	return cmd
}
