package clones

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newTemplateShow(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "show TEMPLATE",
		Short: "Show all about a template",
		Example: `  snapctl template show web
  snapctl template show web --output json | jq -r .template.rules`,
		Args:              session.Exactly("TEMPLATE"),
		ValidArgsFunction: s.Ask(1, templateNames),
		Annotations:       map[string]string{session.ListKey: "template ls"},
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.ShowTemplate(ctx, args[0])
			if err != nil {
				return err
			}
			return s.Print(output.NewTemplateDetail(t))
		}),
	}
}
