package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newCordon(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cordon [HOST]",
		Short: "Have a host take no apps of other hosts",
		Long: `Have a host, or this one, take no apps of other hosts from now on: none moves to it, or is made
there by a --host, whoever asks for that, also by --force. What it has stays, and runs, sleeps
and wakes as before; commands on the host itself may run more there. Snapshots may still be
pushed to it.

It stays so, also over restarts, until host uncordon. host ls shows it. A host whose snapctl
is older than this command does not heed it.`,
		Example: `  snapctl host cordon host-b
  snapctl host uncordon host-b`,
	}
	return cordoning(s, cmd, true)
}

func newUncordon(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "uncordon [HOST]",
		Short:   "Have a host take apps of other hosts again",
		Long:    `Have a host, or this one, take apps of other hosts again, after host cordon or host drain.`,
		Example: "  snapctl host uncordon host-b",
	}
	return cordoning(s, cmd, false)
}

func cordoning(s *session.Session, cmd *cobra.Command, cordoned bool) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = session.AtMost("HOST"), s.Ask(1, session.HostNames)
	cmd.Annotations = map[string]string{session.ListKey: "host ls"}
	cmd.RunE = s.Call(func(ctx context.Context, c *client.Client, args []string) error {
		req := &api.CordonHostRequest{Cordoned: cordoned}
		if len(args) > 0 {
			req.Host = args[0]
		}
		h, err := c.CordonHost(ctx, req)
		if err != nil {
			return err
		}
		return s.Print(output.NewHostDetail(h))
	})
	return cmd
}
