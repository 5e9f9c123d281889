package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// embedded is the directory that runs beside this host's daemon.
const embedded = "embedded"

func newInit(s *session.Session) *cobra.Command {
	var at place
	var directory []string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make an installation, of which this host is the first",
		Long: `Make an installation, of which this host is the first. It gets a certificate authority of
its own, opens the port of the control channel at its addresses, and has a directory, which
knows where each endpoint is: an etcd that runs beside snapctld, or one of your own.`,
		Example: `  snapctl host init
  snapctl host init --address 192.0.2.7%eth1,priority=10 --address 198.51.100.7
  snapctl host init --directory https://etcd-1:2379,https://etcd-2:2379`,
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			req := &api.InitHostRequest{Name: at.name, Addresses: at.messages(), Port: uint32(at.port)}
			urls, err := directoryURLs(directory)
			if err != nil {
				return err
			}
			req.Directory = urls
			h, err := c.InitHost(ctx, req)
			if err != nil {
				return err
			}
			return s.Print(output.NewHostDetail(h))
		}),
	}
	at.flags(cmd)
	cmd.Flags().StringSliceVar(&directory, "directory", []string{embedded}, "`WHERE` the directory is: embedded, or the https URLs of an etcd cluster")
	session.CompleteFlag(cmd, "directory", cobra.FixedCompletions([]string{embedded, "https://"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}
