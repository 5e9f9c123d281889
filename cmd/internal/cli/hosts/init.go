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
		Short: "Make an installation, or have another host run it too",
		Long: `Make an installation, of which this host is the first. It gets a certificate authority of
its own, opens the port of the control channel at its addresses, and has a directory, which
knows where each endpoint is: an etcd that runs beside snapctld, or one of your own.

On a host that has joined an installation, have it run the installation too: it gets a member
of the directory, and the certificate authority, so that it invites and lets hosts in. With
three such hosts any one of them may fail, the first one too.`,
		Example: `  snapctl host init
  snapctl host init   # on a second and a third host, when they have joined
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
			if err := s.Print(output.NewHostDetail(h)); err != nil {
				return err
			}
			all, err := c.ListHosts(ctx)
			if err != nil {
				return err
			}
			for _, note := range evenMembers(all) {
				s.Say("note", note)
			}
			return nil
		}),
	}
	at.flags(cmd)
	cmd.Flags().StringSliceVar(&directory, "directory", []string{embedded}, "`WHERE` the directory is: embedded, or the https URLs of an etcd cluster")
	session.CompleteFlag(cmd, "directory", cobra.FixedCompletions([]string{embedded, "https://"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}
