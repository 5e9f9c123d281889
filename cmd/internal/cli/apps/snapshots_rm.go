package apps

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newSnapshotsRm(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "rm SNAPSHOT...",
		Short: "Remove snapshots",
		Long: `Remove snapshots. Apps that were made of them go on. One that a template is made of,
or an app is just being restored from, is not removed.`,
		Example:           "  snapctl snapshots rm cache-1 cache-2",
		Args:              session.SomeOf("SNAPSHOT"),
		ValidArgsFunction: s.Ask(0, session.SnapshotNames),
		Annotations:       map[string]string{session.ListKey: "snapshots"},
		RunE: s.Operate(output.RemoveSnapshot, func(ctx context.Context, c *client.Client, name string, _ client.Progress) (*api.Result, error) {
			return &api.Result{}, c.RemoveSnapshot(ctx, name)
		}),
	}
}
