package apps

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/policy"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewSnapshot makes the command `snapctl snapshot`.
func NewSnapshot(s *session.Session) *cobra.Command {
	var name string
	stop, endSessions := false, false
	var lost policy.Lost
	cmd := &cobra.Command{
		Use:   "snapshot APP",
		Short: "Save an app under a name",
		Long: `Save an app, its processes and its files, under a name. The app goes on, or stays
hibernated. Of an app that has ended the files are saved, and what is made of them
runs the program anew. Any number of apps can be made of a snapshot with restore.

What the app's last snapshot has of its memory is not stored again. That one can
be removed all the same: what another snapshot needs of it stays.

With --stop nothing is done if no app could be made of the snapshot, for something that
it needs of the host is gone: the app goes on. Without it that is a note.`,
		Example: `  snapctl snapshot cache
  snapctl snapshot cache --name before-upgrade --stop`,
		Args:              session.Exactly("APP"),
		ValidArgsFunction: s.Ask(1, session.AppNames(api.Status_STATUS_RUNNING, api.Status_STATUS_HELD, api.Status_STATUS_STOPPED)),
		Annotations:       map[string]string{session.TakenKey: "choose another --name, or none"},
		RunE: s.Operate(output.TakeSnapshot, func(ctx context.Context, c *client.Client, app string, tell client.Progress) (*api.Result, error) {
			return c.TakeSnapshot(ctx, &api.SnapshotRequest{App: app, Name: name, Stop: stop, EndSessions: endSessions, Timeout: s.Patience(), AcceptLost: lost.Words()}, tell)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the snapshot (default APP-1, APP-2, ...)")
	cmd.Flags().BoolVar(&stop, "stop", false, "end the app, at the very moment that is saved")
	cmd.Flags().BoolVar(&endSessions, "end-sessions", false, endSessionsUsage)
	lost.Add(cmd, "")
	session.CompleteFlag(cmd, "name", cobra.NoFileCompletions)
	return cmd
}
