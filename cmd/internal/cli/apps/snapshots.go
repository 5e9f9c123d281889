package apps

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/moves"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewSnapshots makes the command that lists snapshots, and has the commands below it that remove them and
// take them to other hosts: "snapshot rm" would be the snapshot of an app called rm.
func NewSnapshots(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshots",
		Short: "List or remove snapshots, and take them to other hosts",
		Long: `List the snapshots. SIZE is what was stored for a snapshot; of that MEMORY is the
processes', and FILES what the app had written. The rest is mostly files of the host that
are kept for it. SHARED is what had been stored before, for other snapshots and apps, and
the snapshot needs, too. WOULD NOT START, if it is there, is a file without which no app
could be made of it now; inspect says why, and what to do.

Each snapshot can be removed by itself. That frees its SIZE, but for what is needed by
others that share it: this is freed with the last of them.`,
		Example: `  snapctl snapshots
  snapctl snapshots rm cache-1
  snapctl snapshots push cache-1 --to host-b`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.ListSnapshots(ctx)
			if err != nil {
				return err
			}
			return s.Print(output.NewSnapshotList(all))
		}),
	}
	cmd.AddCommand(newSnapshotsRm(s), moves.NewPush(s), moves.NewPull(s))
	return cmd
}
