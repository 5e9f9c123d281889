package clones

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newTemplateLs(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List templates",
		Long: `List the templates. MEMORY and FILES are what clones share; POOL is how many clones
stand ready, of how many that are to. WOULD NOT START, if it is there, is a file without
which no clone could be made now; template show says why, and what to do.`,
		Example:           "  snapctl template ls",
		Args:              session.Exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.ListTemplates(ctx)
			if err != nil {
				return err
			}
			return s.Print(output.NewTemplateList(all))
		}),
	}
}
