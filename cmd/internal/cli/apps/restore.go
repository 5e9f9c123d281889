package apps

import (
	"context"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/policy"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewRestore makes the command `snapctl restore`.
func NewRestore(s *session.Session) *cobra.Command {
	var as, host string
	var endpoint netip.Addr
	var mode copyFlag
	var flags policy.Flags
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Make an app of a snapshot",
		Long: `Make an app of a snapshot. It goes on where the app was when it was saved.

Connections that the app had with others stay with the app, and the new one finds
them closed: they are listed, and the exit code is 6. TCP connections both of whose
ends are in the app are copied with all that was on its way. Listeners and datagram
sockets are made anew.

With --host another host of the installation makes the app. The snapshot is taken there,
as by snapctl snapshots push: what is there already is not sent. It stays there if the app
is made. If not it is removed, unless it was there before.

` + policy.FilesText + `

` + policy.Text + `

` + memoryText,
		Example: `  snapctl restore cache-1
  snapctl restore cache-1 --as cache2 --endpoint 10.77.0.8
  snapctl restore cache-1 --as cache2 --host host-b
  snapctl restore cache-1 --copy`,
		Args:              session.Exactly("SNAPSHOT"),
		ValidArgsFunction: s.Ask(1, session.SnapshotNames),
		Annotations:       map[string]string{session.ListKey: "snapshots", session.TakenKey: "--as and --endpoint make another app of it"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		wake, after, err := flags.Messages()
		if err != nil {
			return err
		}
		return s.Operate(output.Restore, func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error) {
			req := &api.RestoreRequest{Snapshot: name, As: as, Host: host, Timeout: s.Patience(), Copy: mode.copy, AcceptChangedFiles: flags.Files.Message(), Wake: wake, HibernateAfter: after, RestoreMemory: flags.Memory.Message()}
			if endpoint.IsValid() {
				req.Endpoint = endpoint.String()
			}
			return c.Restore(ctx, req, tell)
		})(cmd, args)
	}
	cmd.Flags().StringVar(&as, "as", "", "`NAME` of the app (default: as in the snapshot)")
	cmd.Flags().Var(value.One(&endpoint, "ADDR", value.ParseIPv4), "endpoint", "address of the app (default: as in the snapshot)")
	cmd.Flags().StringVar(&host, "host", "", "the `HOST` that makes the app (default: this one)")
	flags.Add(s, cmd)
	mode.add(cmd)
	session.CompleteFlag(cmd, "host", s.Ask(0, session.HostNames))
	session.CompleteFlag(cmd, "as", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "endpoint", cobra.NoFileCompletions)
	return cmd
}
