// Package directorycli is the command line of snapctl-directory, a member of the directory's etcd
// cluster: etcd's server with the settings that snapctl needs. Package member of the VEM starts
// it, and has the files that it works with.
package directorycli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	etcdversion "go.etcd.io/etcd/api/v3/version"

	"github.com/snapctl/snapctl/cmd/internal/version"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// Main runs snapctl-directory and returns its exit code. It logs JSON lines to stderr, as etcd
// does, since package member reads from them why a member ended.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	cmd := command(stdout, log) //nolint:contextcheck // cobra hands ctx to the command
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		if errors.Is(err, errUsage) {
			fmt.Fprintf(stderr, "snapctl-directory: error: %v\n", err)
			return 2
		}
		log.ErrorContext(ctx, "member ends", slog.Any("error", err))
		return 1
	}
	return 0
}

var errUsage = errors.New("usage")

func command(stdout io.Writer, log *slog.Logger) *cobra.Command {
	root := &cobra.Command{
		Use:   "snapctl-directory",
		Short: "A member of the directory's etcd cluster",
		Long: `snapctl-directory is a member of the etcd cluster in which the hosts of an
installation keep who owns which endpoint. snapctld starts and watches it.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("%w: %s", errUsage, cmd.UseLine())
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(
		&cobra.Command{
			Use: "serve CONFIG", Short: "Serve until SIGTERM", Args: number(1),
			Example: "  snapctl-directory serve /var/lib/snapctl/directory/config.json",
			RunE: func(cmd *cobra.Command, args []string) error {
				return withClaim(args[0], func(c member.Config, claim *member.Claim) error {
					return serve(cmd.Context(), c, claim, log)
				})
			},
		},
		&cobra.Command{
			Use: "restore CONFIG BACKUP", Short: "Put a backup in the place of the data", Args: number(2),
			Example: "  snapctl-directory restore /var/lib/snapctl/directory/config.json /root/directory.backup",
			RunE: func(cmd *cobra.Command, args []string) error {
				return withClaim(args[0], func(c member.Config, claim *member.Claim) error {
					return restore(cmd.Context(), c, claim, args[1], log)
				})
			},
		},
		&cobra.Command{
			Use: "version", Short: "Print the versions of snapctl and etcd", Args: number(0),
			Example: "  snapctl-directory version",
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintf(stdout, "snapctl-directory %s\netcd %s\n", version.Version, etcdversion.Version)
				return err
			},
		},
	)
	return root
}

func number(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%w: %s", errUsage, cmd.UseLine())
		}
		return nil
	}
}

// withClaim does something that no other process may do to the member's folder meanwhile.
func withClaim(config string, do func(c member.Config, claim *member.Claim) error) error {
	c, err := member.ReadConfig(config)
	if err != nil {
		return err
	}
	claim, err := member.Take(c)
	if err != nil {
		return err
	}
	return errors.Join(do(c, claim), claim.Release())
}
