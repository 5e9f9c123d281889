package clones

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newTemplateRm(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:               "rm TEMPLATE...",
		Short:             "Remove templates",
		Long:              "Remove templates, and the clones of them that stand ready. A template that has\nother clones is not removed: they share its memory.",
		Example:           "  snapctl template rm web",
		Args:              session.SomeOf("TEMPLATE"),
		ValidArgsFunction: s.Ask(0, templateNames),
		Annotations:       map[string]string{session.ListKey: "template ls"},
		RunE: s.Operate(output.RemoveTemplate, func(ctx context.Context, c *client.Client, name string, _ client.Progress) (*api.Result, error) {
			return &api.Result{}, c.RemoveTemplate(ctx, name)
		}),
	}
}
