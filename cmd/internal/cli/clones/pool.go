package clones

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// maxPool bounds a pool; it is a mistake rather than a wish.
const maxPool = 1000

func newTemplatePool(s *session.Session) *cobra.Command {
	size := 0
	cmd := &cobra.Command{
		Use:   "pool TEMPLATE --size N",
		Short: "Have clones stand ready",
		Long: `Say how many clones of a template stand ready: restored, frozen, and without an
identity, so that snapctl clone only has to give them one. They are made in the
background; snapctl template ls shows how many there are. With --size 0 there are
none.`,
		Example:           "  snapctl template pool web --size 5",
		Args:              session.Exactly("TEMPLATE"),
		ValidArgsFunction: s.Ask(1, templateNames),
		Annotations:       map[string]string{session.ListKey: "template ls"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("size"):
			return session.Usagef("%s needs --size N", cmd.CommandPath())
		case size < 0 || size > maxPool:
			return session.Usagef("--size %d: want 0 to %d", size, maxPool)
		}
		return s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.SetPool(ctx, &api.SetPoolRequest{Template: args[0], Size: int32(size)})
			if err != nil {
				return err
			}
			return s.Print(output.NewPoolChange(t))
		})(cmd, args)
	}
	cmd.Flags().IntVar(&size, "size", 0, "how many clones, `N`; 0 is none")
	session.CompleteFlag(cmd, "size", cobra.NoFileCompletions)
	return cmd
}
