package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

func newTemplateShow(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "show TEMPLATE",
		Short: "Show all about a template",
		Example: `  snapctl template show web
  snapctl template show web --output json | jq -r .template.rules`,
		Args:              exactly("TEMPLATE"),
		ValidArgsFunction: s.ask(1, templateNames),
		Annotations:       map[string]string{listKey: "template ls"},
		RunE: s.call(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.ShowTemplate(ctx, args[0])
			if err != nil {
				return err
			}
			return s.print(output.NewTemplateDetail(t))
		}),
	}
}
