package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newSnapshot(s *session) *cobra.Command {
	var name string
	stop, endSessions := false, false
	var lost protectionFlag
	cmd := &cobra.Command{
		Use:   "snapshot APP",
		Short: "Save an app under a name",
		Long: `Save an app, its processes and its files, under a name. The app goes on, or stays
hibernated. Of an app that has ended the files are saved, and what is made of them
runs the program anew. Any number of apps can be made of a snapshot with restore.

With --stop nothing is done if no app could be made of the snapshot, for something that
it needs of the host is gone: the app goes on. Without it that is a note.`,
		Example: `  snapctl snapshot cache
  snapctl snapshot cache --name before-upgrade --stop`,
		Args:              exactly("APP"),
		ValidArgsFunction: s.ask(1, appNames(api.Status_STATUS_RUNNING, api.Status_STATUS_HELD, api.Status_STATUS_STOPPED)),
		Annotations:       map[string]string{takenKey: "choose another --name, or none"},
		RunE: s.operate(output.TakeSnapshot, func(ctx context.Context, c *client.Client, app string, tell client.Progress) (*api.Result, error) {
			return c.TakeSnapshot(ctx, &api.SnapshotRequest{App: app, Name: name, Stop: stop, EndSessions: endSessions, Timeout: s.patience(), AcceptLost: lost.names()}, tell)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the snapshot (default APP-1, APP-2, ...)")
	cmd.Flags().BoolVar(&stop, "stop", false, "end the app, at the very moment that is saved")
	cmd.Flags().BoolVar(&endSessions, "end-sessions", false, endSessionsUsage)
	lost.add(cmd, "")
	completeFlag(cmd, "name", cobra.NoFileCompletions)
	return cmd
}
