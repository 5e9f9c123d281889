package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// maxPool bounds a pool; it is a mistake rather than a wish.
const maxPool = 1000

func newTemplatePool(s *session) *cobra.Command {
	size := 0
	cmd := &cobra.Command{
		Use:   "pool TEMPLATE --size N",
		Short: "Have clones stand ready",
		Long: `Say how many clones of a template stand ready: restored, frozen, and without an
identity, so that snapctl clone only has to give them one. They are made in the
background; snapctl template ls shows how many there are. With --size 0 there are
none.`,
		Example:           "  snapctl template pool web --size 5",
		Args:              exactly("TEMPLATE"),
		ValidArgsFunction: s.ask(1, templateNames),
		Annotations:       map[string]string{listKey: "template ls"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("size"):
			return usagef("%s needs --size N", cmd.CommandPath())
		case size < 0 || size > maxPool:
			return usagef("--size %d: want 0 to %d", size, maxPool)
		}
		return s.call(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.SetPool(ctx, &api.SetPoolRequest{Template: args[0], Size: int32(size)})
			if err != nil {
				return err
			}
			return s.print(output.NewPoolChange(t))
		})(cmd, args)
	}
	cmd.Flags().IntVar(&size, "size", 0, "how many clones, `N`; 0 is none")
	completeFlag(cmd, "size", cobra.NoFileCompletions)
	return cmd
}
