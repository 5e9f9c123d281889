package hosts

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// newDirectory makes the command `snapctl host directory`.
func newDirectory(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "directory",
		Short: "Look after the directory of the installation",
		Long: `Look after the directory, in which the hosts of an installation keep who owns which endpoint:
an etcd cluster of one or three of the hosts. One of your own is looked after by etcd's tools.`,
		Example: `  snapctl host directory status
  snapctl host directory backup /root/directory.backup`,
	}
	cmd.AddCommand(newStatus(s), newBackup(s), newRestore(s), newDefragment(s))
	return cmd
}

func newStatus(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the members of the directory are",
		Long: `Show how the members of the directory are, asked from this host: which of them answer, which
one leads, how large their data is, and whether the directory takes entries.`,
		Example:           "  snapctl host directory status",
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			d, err := c.ShowDirectory(ctx)
			if err != nil {
				return err
			}
			return s.Print(newDirectoryDocument(d))
		}),
	}
}

func newBackup(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Save the directory in a file",
		Long: `Save the directory in a file on this host, which must not be there yet. The file is in etcd's
snapshot format, is checked by its digest, and is there whole or not at all. It has no keys of
certificates: keep a copy of /var/lib/snapctl/installation/ca of one host as you keep passwords.`,
		Example:           "  snapctl host directory backup /root/directory.backup",
		Args:              session.Exactly("FILE"),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			path, err := s.World.Absolute(args[0])
			if err != nil {
				return err
			}
			b, err := c.BackUpDirectory(ctx, path)
			if err != nil {
				return err
			}
			return s.Print(newBackupDocument(b))
		}),
	}
}

func newRestore(s *session.Session) *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in the place of the directory",
		Long: `Put a backup in the place of the directory. This host, which has a member, runs the only one
then; "snapctl host init" on other hosts has them run members again. What the directory was told
after the backup is lost, and what was there before is kept aside on this host. Apps and the
ways between them go on meanwhile.

While members run on other hosts it is refused, unless --force: they are retired then.`,
		Example:           "  snapctl host directory restore /root/directory.backup --yes",
		Args:              session.Exactly("FILE"),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
		RunE: s.Dialled(func(ctx context.Context, c *client.Client, args []string) error {
			path, err := s.World.Absolute(args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := s.Confirm(fmt.Sprintf("Put %s in the place of the directory, which loses what it was told since?", path), "--yes says that you mean it"); err != nil {
					return err
				}
			}
			ctx, cancel := s.Limit(ctx, restoreSlack)
			defer cancel()
			p := s.Progress("directory")
			p.Tell(&api.Progress{Step: "restore"})
			d, err := c.RestoreDirectory(ctx, &api.RestoreDirectoryRequest{Path: path, Force: force})
			p.Clear()
			if err != nil {
				return err
			}
			return s.Print(newDirectoryDocument(d))
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "although members of the directory run on other hosts")
	return cmd
}

// restoreSlack is how much longer than --timeout a restore may take: it starts a process.
const restoreSlack = 5 * time.Minute

func newDefragment(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "defragment [HOST...]",
		Short: "Give unused room of the directory back to the disk",
		Long: `Give the room of what the directory has forgotten back to the disk: of the members on these
hosts, or of all, one after another. Each answers nobody for some 100 ms per 100 MB. If the
directory is full it forgets all but what it has now, and takes entries again if that makes room.`,
		Example: `  snapctl host directory defragment
  snapctl host directory defragment host-b`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: s.Ask(0, memberNames),
		RunE: s.Dialled(func(ctx context.Context, c *client.Client, hosts []string) error {
			before, err := c.ShowDirectory(ctx)
			if err != nil {
				return err
			}
			if len(hosts) == 0 {
				for _, m := range before.GetMembers() {
					hosts = append(hosts, m.GetHost())
				}
			}
			d := before
			for _, host := range hosts {
				p := s.Progress(host)
				p.Tell(&api.Progress{Step: "defragment"})
				d, err = c.DefragmentDirectory(ctx, host)
				p.Clear()
				if err != nil {
					return session.Named(host, err)
				}
			}
			return s.Print(newDirectoryDocument(d))
		}),
	}
}

// memberNames lists the hosts that run the directory.
func memberNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	d, err := c.ShowDirectory(ctx)
	if err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for _, m := range d.GetMembers() {
		all = append(all, m.GetHost())
	}
	return all, nil
}
